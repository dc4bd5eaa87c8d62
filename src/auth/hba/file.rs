//! The words of a file in the format of pg_hba.conf and pg_ident.conf, and of the files that it includes.

use std::io;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::str::Chars;
use std::sync::Arc;

use super::{HbaProblem, Mistake};

/// Where included files come from.
pub trait Files {
    /// The text of a file.
    fn read(&self, path: &Path) -> io::Result<String>;

    /// The names of everything in a folder.
    fn names(&self, folder: &Path) -> io::Result<Vec<String>>;
}

/// A text, and the file that it stands in: what it includes is looked for beside that.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// The file.
    pub path: &'a Path,
    /// What stands in it.
    pub text: &'a str,
}

/// A line that says something.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) place: Place,
    /// Fields of words, which commas keep together; neither is ever empty.
    pub(super) fields: Vec<Vec<Word>>,
}

/// Where a line stands.
#[derive(Clone, Debug)]
pub(super) struct Place {
    file: Arc<Path>,
    line: usize,
}

/// A word of a line. One that begins with a quote means itself, never a keyword.
#[derive(Clone, Debug)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) is_quoted: bool,
}

impl Place {
    /// The file and the line.
    pub(super) fn parts(&self) -> (&Path, usize) {
        (&self.file, self.line)
    }

    pub(super) fn problem(&self, mistake: Mistake) -> HbaProblem {
        HbaProblem { file: self.file.to_path_buf(), line: self.line, what: mistake.what, instead: mistake.instead }
    }
}

impl Word {
    /// What it says where it may be a keyword.
    pub(super) fn keyword(&self) -> Option<&str> {
        (!self.is_quoted).then_some(&*self.text)
    }
}

/// The field's only word.
pub(super) fn only<'w>(field: &'w [Word], what: &str) -> Result<&'w Word, Mistake> {
    match field {
        [word] => Ok(word),
        _ => Err(Mistake::new(format!("several values for {what}"), "a line for each")),
    }
}

/// The lines that say something, in order, and what is wrong with others.
pub(super) fn read(text: Text<'_>, files: &dyn Files) -> (Vec<Line>, Vec<HbaProblem>) {
    let mut reader = Reader { files, open: Vec::new(), lines: Vec::new(), problems: Vec::new() };
    reader.read(text);
    (reader.lines, reader.problems)
}

struct Reader<'a> {
    files: &'a dyn Files,
    /// The files that are being read, each included by the one before.
    open: Vec<PathBuf>,
    lines: Vec<Line>,
    problems: Vec<HbaProblem>,
}

impl Reader<'_> {
    fn read(&mut self, text: Text<'_>) {
        self.open.push(text.path.to_path_buf());
        let file: Arc<Path> = text.path.into();
        for (line, whole) in joined(text.text) {
            let place = Place { file: Arc::clone(&file), line };
            let understood = self.fields(&whole).and_then(|fields| self.take(&place, fields));
            if let Err(mistake) = understood {
                self.problems.push(place.problem(mistake));
            }
        }
        self.open.pop();
    }

    /// A line is kept, unless it includes others.
    fn take(&mut self, place: &Place, fields: Vec<Vec<Word>>) -> Result<(), Mistake> {
        let first = fields.first().and_then(|field| field.first()).and_then(Word::keyword);
        match first {
            None if fields.is_empty() => return Ok(()),
            Some("include" | "include_if_exists" | "include_dir") => {}
            _ => {
                self.lines.push(Line { place: place.clone(), fields });
                return Ok(());
            }
        }
        let [_, named] = fields.as_slice() else {
            return Err(Mistake::new("an include names one file", "include \"FILE\""));
        };
        let path = self.beside(&only(named, "the file")?.text);
        match first {
            Some("include_dir") => self.include_folder(&path),
            _ => self.include(&path, first == Some("include_if_exists")),
        }
    }

    fn include(&mut self, path: &Path, may_be_missing: bool) -> Result<(), Mistake> {
        self.check_depth(path)?;
        match self.files.read(path) {
            Ok(text) => self.read(Text { path, text: &text }),
            Err(error) if may_be_missing && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(unreadable(path, &error)),
        }
        Ok(())
    }

    /// As PostgreSQL: what ends in `.conf` and is not hidden, by name.
    fn include_folder(&mut self, folder: &Path) -> Result<(), Mistake> {
        let mut names = self.files.names(folder).map_err(|error| unreadable(folder, &error))?;
        names.retain(|name| name.ends_with(".conf") && !name.starts_with('.'));
        names.sort_unstable();
        names.iter().try_for_each(|name| self.include(&folder.join(name), false))
    }

    fn check_depth(&self, path: &Path) -> Result<(), Mistake> {
        if self.open.iter().any(|open| open == path) || self.open.len() > DEEPEST {
            let what = format!("{} is included by itself, or too deeply", path.display());
            return Err(Mistake::new(what, format!("each file once, at most {DEEPEST} deep")));
        }
        Ok(())
    }

    fn beside(&self, name: &str) -> PathBuf {
        let folder = self.open.last().and_then(|open| open.parent()).unwrap_or(Path::new(""));
        folder.join(name)
    }

    /// The fields of a line; `@file` stands for all words of that file.
    fn fields(&mut self, line: &str) -> Result<Vec<Vec<Word>>, Mistake> {
        let mut fields: Vec<Vec<Word>> = Vec::new();
        let mut characters = line.chars().peekable();
        let mut continues = false;
        while let Some(&next) = characters.peek() {
            match next {
                '#' => break,
                _ if next == ',' || next.is_whitespace() => drop(characters.next()),
                _ => {
                    let word = word(&mut characters)?;
                    let is_behind_password =
                        fields.iter().flatten().any(|before| before.text.starts_with("ldapbindpasswd"));
                    // What is no file's name may be more of the password: as a word it is told by nobody.
                    let words = match is_behind_password {
                        true => self.expand(word.clone()).unwrap_or_else(|_| vec![word]),
                        false => self.expand(word)?,
                    };
                    match fields.last_mut().filter(|_| continues) {
                        Some(field) => field.extend(words),
                        None => fields.push(words),
                    }
                    // Only a comma right behind a word continues its field.
                    continues = characters.peek() == Some(&',');
                }
            }
        }
        Ok(fields)
    }

    fn expand(&mut self, word: Word) -> Result<Vec<Word>, Mistake> {
        let Some(name) = word.keyword().and_then(|text| text.strip_prefix('@')).filter(|name| !name.is_empty()) else {
            return Ok(vec![word]);
        };
        let path = self.beside(name);
        self.check_depth(&path)?;
        let text = self.files.read(&path).map_err(|error| unreadable(&path, &error))?;
        self.open.push(path.clone());
        let words = self.words(&text, &path);
        self.open.pop();
        let words = words?;
        if words.is_empty() {
            return Err(Mistake::new(format!("{} holds no name", path.display()), "at least one name in it"));
        }
        Ok(words)
    }

    /// All words of a file.
    fn words(&mut self, text: &str, path: &Path) -> Result<Vec<Word>, Mistake> {
        let mut words = Vec::new();
        for (line, whole) in joined(text) {
            let fields = self.fields(&whole).map_err(|mistake| Mistake {
                what: format!("{}:{line}: {}", path.display(), mistake.what),
                ..mistake
            })?;
            words.extend(fields.into_iter().flatten());
        }
        Ok(words)
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Mistake {
    Mistake::new(
        format!("{} cannot be read: {error}", path.display()),
        "a file that is there, named from this one's folder",
    )
}

/// As PostgreSQL.
const DEEPEST: usize = 10;

/// The lines with their numbers. A backslash at the end of one joins the next to it.
fn joined(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut numbered = text.lines().enumerate();
    while let Some((number, line)) = numbered.next() {
        let mut whole = line.to_owned();
        while whole.ends_with('\\') {
            whole.pop();
            let Some((_, next)) = numbered.next() else { break };
            whole.push_str(next);
        }
        found.push((number + 1, whole));
    }
    found
}

fn word(characters: &mut Peekable<Chars<'_>>) -> Result<Word, Mistake> {
    let mut word = Word { text: String::new(), is_quoted: characters.peek() == Some(&'"') };
    let mut in_quotes = false;
    while let Some(&next) = characters.peek() {
        if !in_quotes && (next.is_whitespace() || matches!(next, ',' | '#')) {
            break;
        }
        characters.next();
        match next {
            '"' if in_quotes && characters.peek() == Some(&'"') => {
                characters.next();
                word.text.push('"');
            }
            '"' => in_quotes = !in_quotes,
            _ => word.text.push(next),
        }
    }
    if in_quotes { Err(Mistake::new("a quote is not closed", "a quote at the end of the word")) } else { Ok(word) }
}
