//! Whose catalogs something may change.

/// What may change the catalogs, by who must be told; a later one is more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It changes none.
    #[default]
    None,
    /// It most likely changes none, and a look will tell.
    Suspected,
    /// Those of the session's own database.
    OfDatabase,
    /// The same, by code of which nobody knows whether it also changes what all databases of the cluster share.
    Opaque,
    /// The same, and it makes roles or changes who is a member of which.
    Roles,
    /// What all databases of the cluster share: roles, and what their sessions begin with.
    Shared,
}

impl Change {
    /// And this.
    #[inline]
    pub fn join(&mut self, other: Self) {
        if other > *self {
            *self = other;
        }
    }
}
