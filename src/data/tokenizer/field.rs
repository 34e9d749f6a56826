//! Reading of JSON objects, with errors that say where something is wrong.

use serde_json::{Map, Value};

/// An object of the file, and what it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object<'a> {
    map: &'a Map<String, Value>,
    what: &'a str,
}

impl<'a> Object<'a> {
    /// # Errors
    /// If it is no object.
    pub(super) fn of(value: &'a Value, what: &'a str) -> Result<Object<'a>, String> {
        value.as_object().map(|map| Object { map, what }).ok_or_else(|| format!("{what} is no JSON object"))
    }

    /// A field; null if it is not there.
    pub(super) fn get(&self, key: &str) -> &'a Value {
        self.map.get(key).unwrap_or(&Value::Null)
    }

    /// Its `type`.
    pub(super) fn kind(&self) -> Result<&'a str, String> {
        self.text("type")
    }

    pub(super) fn text(&self, key: &str) -> Result<&'a str, String> {
        self.get(key).as_str().ok_or_else(|| self.wrong(key, "a text"))
    }

    /// A truth value; `default` where there is none.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, String> {
        match self.get(key) {
            Value::Null => Ok(default),
            v => v.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    pub(super) fn count(&self, key: &str) -> Result<usize, String> {
        let n = self.get(key).as_u64().and_then(|n| usize::try_from(n).ok());
        n.ok_or_else(|| self.wrong(key, "a count"))
    }

    pub(super) fn id(&self, key: &str) -> Result<u32, String> {
        id(self.get(key)).ok_or_else(|| self.wrong(key, "the number of a token"))
    }

    pub(super) fn list(&self, key: &str) -> Result<&'a [Value], String> {
        self.get(key).as_array().map(Vec::as_slice).ok_or_else(|| self.wrong(key, "a list"))
    }

    /// A text that may be missing.
    pub(super) fn optional_text(&self, key: &str) -> Result<Option<&'a str>, String> {
        match self.get(key) {
            Value::Null => Ok(None),
            _ => self.text(key).map(Some),
        }
    }

    pub(super) fn wrong(&self, key: &str, wanted: &str) -> String {
        format!("`{key}` of {} is not {wanted}", self.what)
    }
}

/// The number of a token.
pub(super) fn id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

/// Says that a part of a known sort is of an unknown kind.
pub(super) fn unknown<T>(sort: &str, kind: &str) -> Result<T, String> {
    Err(format!("its {sort} `{kind}` is not supported"))
}
