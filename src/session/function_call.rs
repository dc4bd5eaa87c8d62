//! A FunctionCall message: it names what it calls by a number alone.

use bytes::BytesMut;

use super::Session;
use super::known::Known;
use super::owed::Owed;
use super::translate::Message;
use crate::sql::Draws;
use crate::wire::frontend;

impl Session {
    pub(super) fn translate_function_call(&mut self, message: Message<'_>, known: &mut Known, out: &mut BytesMut) {
        if frontend::called_function(message.body).is_ok_and(|oid| LARGE_OBJECTS.contains(&oid)) {
            if !self.catalog.on_replica {
                self.transaction.writes();
            }
        } else {
            self.may_do_anything(known);
            self.draws(Draws::Maybe, known);
        }
        self.owed.push(Owed::FunctionCall);
        self.flow.batch_open = false;
        out.extend_from_slice(message.whole);
    }
}

/// PostgreSQL's own functions for large objects that drivers call so, by the numbers that they have in every version. They
/// write rows that no picture is drawn from, and what they open is closed with its transaction.
const LARGE_OBJECTS: [u32; 13] = [
    715,  // lo_create
    952,  // lo_open
    953,  // lo_close
    954,  // loread
    955,  // lowrite
    956,  // lo_lseek
    957,  // lo_creat
    958,  // lo_tell
    964,  // lo_unlink
    1004, // lo_truncate
    3170, // lo_lseek64
    3171, // lo_tell64
    3172, // lo_truncate64
];

#[cfg(test)]
mod tests {
    use crate::catalog::Change;
    use crate::session::story::Story;

    #[test]
    fn a_function_for_large_objects_changes_no_catalogs_and_leaves_nothing_where_any_other_may_do_anything() {
        for (oid, is_known) in [(957_u32, true), (955, true), (3172, true), (1574, false), (16_384, false)] {
            let mut story = Story::begin();
            story.send(b'F', &[&oid.to_be_bytes()[..], &[0, 0, 0, 0, 0, 0]].concat());
            let change = if is_known { Change::None } else { Change::Opaque };
            assert_eq!(story.session.catalog_change(), change, "{oid}");
            story.hear_all("VZ");
            assert_eq!(story.session.take_catalog_change(), change, "{oid}");
            assert_eq!(story.session.wants_look(), !is_known, "{oid}");
            assert_eq!(story.known.unseen.is_none(), is_known, "{oid}");
            assert!(story.session.has_written(true), "{oid}: it may have");
        }
    }
}
