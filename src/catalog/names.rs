//! Names of functions in the configuration: which are vouched for, and which need the primary.

use std::fmt;

use crate::sql::Name;
use crate::sql::functions::class_of;

/// A name with `*` for any run of characters, compared exactly otherwise, with or without a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionPattern {
    schema: Option<Box<str>>,
    name: Box<str>,
}

/// What the configuration says of functions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionLists {
    /// These may run on a replica, whatever the catalogs say of them.
    pub safe: Vec<FunctionPattern>,
    /// These need the primary.
    pub primary: Vec<FunctionPattern>,
    /// These keep something of their own in their session, where nobody can see it: they need the primary, and whoever has
    /// called them keeps its server connection.
    pub session: Vec<FunctionPattern>,
}

impl FunctionPattern {
    /// Reads `name` or `schema.name`.
    pub fn new(text: &str) -> Self {
        match text.split_once('.') {
            Some((schema, name)) => Self { schema: Some(schema.into()), name: name.into() },
            None => Self { schema: None, name: text.into() },
        }
    }

    /// It means the function of this name in this schema.
    pub fn matches(&self, schema: &str, name: &str) -> bool {
        self.schema.as_ref().is_none_or(|pattern| glob(pattern, schema)) && glob(&self.name, name)
    }
}

impl fmt::Display for FunctionPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(out, "{schema}.")?;
        }
        out.write_str(&self.name)
    }
}

/// What may be called by this name is one of PostgreSQL's own functions, and one of these patterns means it.
pub fn mean_builtin(patterns: &[FunctionPattern], name: &Name) -> bool {
    patterns.iter().any(|pattern| pattern.matches("pg_catalog", &name.name)) && class_of(name).is_some()
}

/// What may be called by this name is meant by one of these patterns: one of PostgreSQL's own functions, or a user's, which may
/// be in any schema where the name has none.
pub fn may_mean(patterns: &[FunctionPattern], name: &Name) -> bool {
    let may_be = |pattern: &FunctionPattern| match name.schema.as_deref() {
        Some(schema) => pattern.matches(schema, &name.name),
        None => glob(&pattern.name, &name.name),
    };
    mean_builtin(patterns, name) || class_of(name).is_none() && patterns.iter().any(may_be)
}

/// The part before the first `*` must begin the text, each further part follow, the last one end it.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = text.find(part) else { return false };
        text = text.get(at + part.len()..).unwrap_or_default();
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_its_schema_may_mean_a_function_in_any() {
        let patterns = [FunctionPattern::new("app.last_*"), FunctionPattern::new("app.version")];
        let may_mean = |schema: Option<&str>, name: &str| {
            may_mean(&patterns, &Name { schema: schema.map(Into::into), name: name.into() })
        };
        assert!(may_mean(None, "last_id") && may_mean(Some("app"), "last_id"));
        assert!(!may_mean(Some("other"), "last_id") && !may_mean(None, "first_id"));
        assert!(!may_mean(None, "version"), "that is PostgreSQL's own, and not in app");
    }

    #[test]
    fn patterns_match_whole_names() {
        let matches = |pattern: &str, name| FunctionPattern::new(pattern).matches("app", name);
        assert!(matches("app.*", "f") && matches("f", "f") && matches("*.f", "f") && matches("a*p.g*_b*", "g_x_b"));
        assert!(!matches("app.*x", "f") && !matches("public.f", "f") && !matches("f", "ff") && !matches("f*f", "f"));
    }
}
