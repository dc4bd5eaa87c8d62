//! What a database's catalogs say of the names that statements use: which functions, views, operators, casts and types
//! may be used on a replica.
//!
//! [`Inventory`] holds the rows as they were read, [`Picture`] is what they mean, immutable; [`Current`] is the picture
//! in force, and knows when it may be out of date. PostgreSQL's own functions are judged by [`crate::sql::functions`].
//!
//! A picture holds the objects of users only. It takes about 40 bytes for a plain table, 100 for a function; names are
//! kept as hashes. Beyond [`MOST_OBJECTS`] none is made, and whatever is not PostgreSQL's own goes to the primary.

mod change;
mod current;
mod draw;
mod inventory;
mod judge;
mod names;
mod node_tree;
mod path;
mod picture;

pub use change::Change;
pub use current::{Current, Known, Upkeep};
pub use inventory::{
    Body, CastRow, FunctionRow, Inventory, Language, MOST_OBJECTS, OperatorRow, RelationKind, RelationRow, RoleRow,
    TooLarge, TypeRow, Volatility, is_defining, is_keeping,
};
pub use judge::{Found, Verdict, Why};
pub use names::{FunctionLists, FunctionPattern, may_mean, mean_builtin};
pub use node_tree::Mentions;
pub use path::Path;
pub use picture::Picture;

/// The identity of an object in the catalogs.
pub type Oid = u32;

/// Objects from here on are not PostgreSQL's own.
pub const FIRST_OWN: Oid = 16384;
