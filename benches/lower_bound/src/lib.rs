//! The least that a pool can do for `pool.putconn(pool.getconn())`: a bare extension, on the C API itself.
//!
//! It locks a mutex, pops an idle connection and notes it as lent; on return it asks the connection for its
//! transaction status, finds it among the lent ones by its address and pushes it back. No Python runs under the
//! lock, and every reference is counted. All policy is left out: no keys, limits, waiting, hooks or closing.

use core::ffi::{CStr, c_int, c_void};
use core::{mem, ptr};

use parking_lot::Mutex;
// The names are CPython's, and there are many of them.
#[allow(clippy::wildcard_imports)]
use pyo3_ffi::*;

/// The connections, each with one reference that the pool owns, whichever list it is in.
struct Slots {
    idle: Vec<*mut PyObject>,
    lent: Vec<*mut PyObject>,
}

/// A Python object; `repr(C)` puts the header that every object has first.
#[repr(C)]
struct Pool {
    head: PyObject,
    /// The interned name of the one question asked of a connection.
    status_name: *mut PyObject,
    slots: Mutex<Slots>,
}

unsafe extern "C" fn pool_new(class: *mut PyTypeObject, args: *mut PyObject, _kwargs: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter with a class made from `SPEC`, so that an instance has room for a `Pool`,
    // and with a tuple. Each item is borrowed from that tuple and gets a reference of ours before it is kept. The
    // fields are written before the object can be seen, or dropped, by anyone.
    unsafe {
        let status_name = PyUnicode_InternFromString(c"get_transaction_status".as_ptr());
        if status_name.is_null() {
            return ptr::null_mut();
        }
        let object = PyType_GenericAlloc(class, 0);
        if object.is_null() {
            Py_DECREF(status_name);
            return ptr::null_mut();
        }
        let idle: Vec<_> = (0..PyTuple_Size(args)).map(|index| Py_NewRef(PyTuple_GetItem(args, index))).collect();
        let lent = Vec::with_capacity(idle.len());
        let pool = object.cast::<Pool>();
        (&raw mut (*pool).status_name).write(status_name);
        (&raw mut (*pool).slots).write(Mutex::new(Slots { idle, lent }));
        object
    }
}

unsafe extern "C" fn pool_dealloc(object: *mut PyObject) {
    // SAFETY: called once, when no reference to the object is left, so that its fields can be moved out; `pool_new`
    // wrote them before the object could be dropped. An instance of a heap type owns a reference to its type.
    unsafe {
        let class = Py_TYPE(object);
        let pool = object.cast::<Pool>();
        let Slots { idle, lent } = (&raw const (*pool).slots).read().into_inner();
        for connection in idle.into_iter().chain(lent) {
            Py_DECREF(connection);
        }
        Py_DECREF((*pool).status_name);
        // A subclass in Python has its own, since the garbage collector knows its instances.
        let free: freefunc = mem::transmute(PyType_GetSlot(class, Py_tp_free));
        free(object.cast());
        Py_DECREF(class.cast());
    }
}

/// Takes the connection returned last, and lends it.
unsafe extern "C" fn getconn(object: *mut PyObject, _args: *mut *mut PyObject, _count: Py_ssize_t) -> *mut PyObject {
    // SAFETY: a method of `Pool`'s own type, which CPython calls with an instance of it. The connection is kept alive
    // by the pool's reference, and the caller gets one more.
    unsafe {
        let pool = &*object.cast::<Pool>();
        let mut slots = pool.slots.lock();
        let Some(connection) = slots.idle.pop() else {
            drop(slots);
            return fail(c"connection pool exhausted");
        };
        slots.lent.push(connection);
        drop(slots);
        Py_NewRef(connection)
    }
}

/// Takes a connection back if it is idle, as `get_transaction_status` has it.
unsafe extern "C" fn putconn(object: *mut PyObject, connection: *mut PyObject) -> *mut PyObject {
    // SAFETY: as in `getconn`; `connection` is the caller's and outlives the call. It moves between lists together
    // with the reference that the pool has held since it was made, so that no count changes.
    unsafe {
        let pool = &*object.cast::<Pool>();
        let answer = PyObject_CallMethodNoArgs(connection, pool.status_name);
        if answer.is_null() {
            return ptr::null_mut();
        }
        let status = PyLong_AsLong(answer);
        Py_DECREF(answer);
        if status != 0 {
            return fail(c"the connection is not idle");
        }
        let mut slots = pool.slots.lock();
        let Some(place) = slots.lent.iter().position(|lent| *lent == connection) else {
            drop(slots);
            return fail(c"the connection is not lent");
        };
        slots.lent.swap_remove(place);
        slots.idle.push(connection);
        drop(slots);
        Py_NewRef(Py_None())
    }
}

/// Takes a connection back with all the arguments of psycopg2.pool's `putconn`, and ignores the others: for subclasses.
unsafe extern "C" fn putconn_with(object: *mut PyObject, args: *mut *mut PyObject, count: Py_ssize_t) -> *mut PyObject {
    // SAFETY: as in `putconn`; CPython passes `count` arguments, of which the first is read only if there is one.
    unsafe {
        if count == 0 {
            return fail(c"no connection to take back");
        }
        putconn(object, *args)
    }
}

/// Raises a `RuntimeError`, unless an exception is on its way already.
#[cold]
unsafe fn fail(message: &CStr) -> *mut PyObject {
    // SAFETY: the interpreter is attached, since it called the method that calls this.
    unsafe {
        if PyErr_Occurred().is_null() {
            PyErr_SetString(PyExc_RuntimeError, message.as_ptr());
        }
    }
    ptr::null_mut()
}

unsafe extern "C" fn fill(module: *mut PyObject) -> c_int {
    // SAFETY: called by the import with the new module; the tables are statics that nothing changes afterwards, as
    // CPython asks. Adding to the module takes a reference of its own, and ours is given back.
    unsafe {
        let class = PyType_FromSpec(&raw mut SPEC);
        if class.is_null() {
            return -1;
        }
        let outcome = PyModule_AddObjectRef(module, c"Pool".as_ptr(), class);
        Py_DECREF(class);
        outcome
    }
}

static mut METHODS: [PyMethodDef; 4] = [
    PyMethodDef {
        ml_name: c"getconn".as_ptr(),
        ml_meth: PyMethodDefPointer { PyCFunctionFast: getconn },
        ml_flags: METH_FASTCALL,
        ml_doc: ptr::null(),
    },
    PyMethodDef {
        ml_name: c"putconn".as_ptr(),
        ml_meth: PyMethodDefPointer { PyCFunction: putconn },
        ml_flags: METH_O,
        ml_doc: ptr::null(),
    },
    PyMethodDef {
        ml_name: c"putconn_with".as_ptr(),
        ml_meth: PyMethodDefPointer { PyCFunctionFast: putconn_with },
        ml_flags: METH_FASTCALL,
        ml_doc: ptr::null(),
    },
    PyMethodDef::zeroed(),
];

static mut TYPE_SLOTS: [PyType_Slot; 4] = [
    PyType_Slot { slot: Py_tp_new, pfunc: pool_new as *mut c_void },
    PyType_Slot { slot: Py_tp_dealloc, pfunc: pool_dealloc as *mut c_void },
    PyType_Slot { slot: Py_tp_methods, pfunc: (&raw mut METHODS).cast() },
    PyType_Slot { slot: 0, pfunc: ptr::null_mut() },
];

// A Pool is a few dozen bytes long, far from what a C int can hold.
#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
static mut SPEC: PyType_Spec = PyType_Spec {
    name: c"lower_bound.Pool".as_ptr(),
    basicsize: mem::size_of::<Pool>() as c_int,
    itemsize: 0,
    flags: (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE) as core::ffi::c_uint,
    slots: (&raw mut TYPE_SLOTS).cast(),
};

static mut MODULE_SLOTS: [PyModuleDef_Slot; 2] = [
    PyModuleDef_Slot { slot: Py_mod_exec, value: fill as *mut c_void },
    PyModuleDef_Slot { slot: 0, value: ptr::null_mut() },
];

static mut MODULE: PyModuleDef = PyModuleDef {
    m_base: PyModuleDef_HEAD_INIT,
    m_name: c"lower_bound".as_ptr(),
    m_doc: ptr::null(),
    m_size: 0,
    m_methods: ptr::null_mut(),
    m_slots: (&raw mut MODULE_SLOTS).cast(),
    m_traverse: None,
    m_clear: None,
    m_free: None,
};

/// Begins the import of `lower_bound`.
///
/// # Safety
///
/// For the interpreter's import alone.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub unsafe extern "C" fn PyInit_lower_bound() -> *mut PyObject {
    // SAFETY: the definition is a static.
    unsafe { PyModuleDef_Init(&raw mut MODULE) }
}
