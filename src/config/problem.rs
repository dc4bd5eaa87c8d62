//! What is wrong with a configuration: where, what, and what to write instead.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong with a configuration file or a rule file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as the user named it.
    pub file: PathBuf,
    /// Where in the file; None: the file as a whole.
    pub place: Option<Place>,
    /// The setting, as in `pool.size`; empty when no setting is meant.
    pub path: String,
    /// What is wrong, and what was expected.
    pub what: String,
    /// What may have been meant, or what to do.
    pub hint: Option<String>,
}

/// A place in a text, counted from 1; columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The character in the line.
    pub column: usize,
}

/// Everything that is wrong, in the order of files and lines; printed as one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// None if there are none. The configuration file's come first, then those of rule files in their order.
    pub(super) fn collect(mut problems: Vec<Problem>) -> Option<Self> {
        let mut files: Vec<PathBuf> = Vec::new();
        for problem in &problems {
            if !files.contains(&problem.file) {
                files.push(problem.file.clone());
            }
        }
        problems.sort_by_key(|problem| (files.iter().position(|file| *file == problem.file), problem.place));
        problems.dedup();
        (!problems.is_empty()).then_some(Self(problems))
    }

    /// The problems, one by one; never none.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut problems = self.0.iter();
        if let Some(first) = problems.next() {
            write!(f, "{first}")?;
        }
        problems.try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(place) = self.place {
            write!(f, "{}:{}:", place.line, place.column)?;
        }
        if !self.path.is_empty() {
            write!(f, " {}:", self.path)?;
        }
        write!(f, " {}", self.what)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl Problem {
    /// Something wrong with a whole file.
    pub(super) fn of_file(file: &Path, what: String) -> Self {
        Self { file: file.to_path_buf(), place: None, path: String::new(), what, hint: None }
    }
}

impl Place {
    /// The place of a byte of a text.
    pub(super) fn of(text: &str, byte: usize) -> Self {
        let before = text.get(..byte).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            line: 1 + before.matches('\n').count(),
            column: 1 + before.get(line_start..).unwrap_or_default().chars().count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize) -> Problem {
        Problem {
            file: "trunkline.toml".into(),
            place: Some(Place { line, column: 8 }),
            path: "pool.size".into(),
            what: "expected a whole number between 1 and 10000, found \"many\"".into(),
            hint: None,
        }
    }

    #[test]
    fn a_problem_names_file_line_column_setting_and_what_was_expected() {
        let words = "trunkline.toml:31:8: pool.size: expected a whole number between 1 and 10000, found \"many\"";
        assert_eq!(at(31).to_string(), words);
        let hinted = Problem { hint: Some("write 20".into()), place: None, ..at(1) };
        assert!(hinted.to_string().starts_with("trunkline.toml: pool.size: expected"));
        assert!(hinted.to_string().ends_with(" (write 20)"));
    }

    #[test]
    fn problems_stand_in_the_order_of_lines_within_the_order_of_files() {
        let rule = Problem { file: "a.toml".into(), ..at(2) };
        let sorted = Problems::collect(vec![at(9), rule.clone(), at(3)]).unwrap();
        assert_eq!(sorted, Problems(vec![at(3), at(9), rule]));
        assert_eq!(Problems::collect(Vec::new()), None);
    }

    #[test]
    fn a_column_counts_characters() {
        assert_eq!(Place::of("a\nü = 1", 5), Place { line: 2, column: 3 });
        assert_eq!(Place::of("", 0), Place { line: 1, column: 1 });
        assert_eq!(Place::of("a\n", 99), Place { line: 2, column: 1 });
    }
}
