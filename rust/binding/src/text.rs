//! Text of Python's, which may be no Unicode: a path, a thread's name or a key may hold bytes as surrogates.

use pyo3::prelude::*;
use pyo3::types::PyString;

/// Reads a text. What is no Unicode in it is written as `backslashreplace` writes it.
pub(crate) fn text_of(object: &Bound<'_, PyAny>) -> PyResult<String> {
    let text = object.cast::<PyString>()?;
    if let Ok(text) = text.to_str() {
        return Ok(text.to_owned());
    }
    // By way of the class: a subclass may have an `encode` of its own.
    let bytes = text.py().get_type::<PyString>().call_method1("encode", (text, "utf-8", "backslashreplace"))?;
    bytes.call_method0("decode")?.extract()
}

/// Reads the `repr()` of an object.
pub(crate) fn repr_of(object: &Bound<'_, PyAny>) -> PyResult<String> {
    text_of(object.repr()?.as_any())
}
