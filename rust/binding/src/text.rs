//! Python strings that may be no valid Unicode: a path, a thread's name or a key may hold bytes as surrogates.

use pyo3::prelude::*;
use pyo3::types::PyString;

/// Reads a string. Writes surrogates as `backslashreplace` does.
pub(crate) fn text_of(object: &Bound<'_, PyAny>) -> PyResult<String> {
    let text = object.cast::<PyString>()?;
    if let Ok(text) = text.to_str() {
        return Ok(text.to_owned());
    }
    // Call it on the class: a subclass may override `encode`.
    let bytes = text.py().get_type::<PyString>().call_method1("encode", (text, "utf-8", "backslashreplace"))?;
    bytes.call_method0("decode")?.extract()
}

/// Reads the `repr()` of an object.
pub(crate) fn repr_of(object: &Bound<'_, PyAny>) -> PyResult<String> {
    text_of(object.repr()?.as_any())
}
