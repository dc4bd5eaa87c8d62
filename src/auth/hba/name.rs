//! Names of users and databases in rules: themselves, keywords, patterns, and whoever is a member of a role.

use regex::Regex;

use super::file::Word;
use super::{Findings, Fit, Mistake, Origin, Question, Surroundings};

/// Whom a rule or a map means.
#[derive(Clone, Debug)]
pub(super) enum UserName {
    All,
    MemberOf(Box<str>),
    Exactly(Box<str>),
    Matching(Regex),
}

/// Which database a rule means.
#[derive(Clone, Debug)]
pub(super) enum DatabaseName {
    All,
    SameUser,
    /// Whose name is that of a role which the user is a member of.
    SameRole,
    Replication,
    Exactly(Box<str>),
    Matching(Regex),
}

impl UserName {
    pub(super) fn parse(word: &Word, surroundings: Surroundings<'_>) -> Result<Self, Mistake> {
        if let Some(pattern) = word.text.strip_prefix('/') {
            return pattern_of(pattern).map(Self::Matching);
        }
        match word.keyword() {
            Some("all") => Ok(Self::All),
            Some(text) => match text.strip_prefix('+') {
                Some(role) => {
                    check_membership(surroundings)?;
                    Ok(Self::MemberOf(role.into()))
                }
                None => Ok(Self::Exactly(text.into())),
            },
            None => Ok(Self::Exactly(word.text.as_str().into())),
        }
    }

    pub(super) fn fit(&self, user: &str, findings: &Findings) -> Fit {
        match self {
            Self::All => Ok(true),
            Self::MemberOf(role) => is_member(role, findings),
            Self::Exactly(name) => Ok(**name == *user),
            Self::Matching(pattern) => Ok(pattern.is_match(user)),
        }
    }
}

impl DatabaseName {
    pub(super) fn parse(word: &Word, surroundings: Surroundings<'_>) -> Result<Self, Mistake> {
        if let Some(pattern) = word.text.strip_prefix('/') {
            return pattern_of(pattern).map(Self::Matching);
        }
        match word.keyword() {
            Some("all") => Ok(Self::All),
            Some("sameuser") => Ok(Self::SameUser),
            Some("samerole" | "samegroup") => check_membership(surroundings).map(|()| Self::SameRole),
            Some("replication") => Ok(Self::Replication),
            _ => Ok(Self::Exactly(word.text.as_str().into())),
        }
    }

    /// As in PostgreSQL: a connection for replication is not one to a database, so `all` does not mean it.
    pub(super) fn fit(&self, origin: &Origin<'_>, findings: &Findings) -> Fit {
        match self {
            Self::Replication => Ok(origin.is_replication),
            _ if origin.is_replication => Ok(false),
            Self::All => Ok(true),
            Self::SameUser => Ok(origin.database == origin.user),
            Self::SameRole => is_member(origin.database, findings),
            Self::Exactly(name) => Ok(**name == *origin.database),
            Self::Matching(pattern) => Ok(pattern.is_match(origin.database)),
        }
    }
}

fn is_member(role: &str, findings: &Findings) -> Fit {
    findings.roles.as_ref().map(|roles| roles.contains(role)).ok_or(Question::Roles)
}

/// Only the clusters know who is a member of what.
fn check_membership(surroundings: Surroundings<'_>) -> Result<(), Mistake> {
    match surroundings.unasked_cluster {
        None => Ok(()),
        Some(cluster) => {
            let what =
                format!("membership in roles is asked of the cluster, and {cluster:?} has no [cluster.auth_query]");
            Err(Mistake::new(what, "that section, or the names of the users"))
        }
    }
}

pub(super) fn pattern_of(pattern: &str) -> Result<Regex, Mistake> {
    Regex::new(pattern).map_err(|_| {
        let what = format!("{:?} is not a regular expression that is supported", format!("/{pattern}"));
        Mistake::new(what, "one without back references and lookaround, in quotes if it holds a comma or a space")
    })
}
