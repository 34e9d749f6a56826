//! Dense side tables: what analyses learn about values and operators, kept out of the graph.

use crate::{OpId, ValueId};

macro_rules! table {
    ($(#[$doc:meta])* $table:ident, $id:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $table<T> { rows: Vec<Option<T>> }

        impl<T> Default for $table<T> {
            fn default() -> Self { Self { rows: Vec::new() } }
        }

        impl<T> $table<T> {
            /// An empty table.
            pub fn new() -> Self { Self::default() }

            /// The entry of an id, if there is one.
            pub fn get(&self, id: $id) -> Option<&T> { self.rows.get(id.index()).and_then(Option::as_ref) }

            /// The entry of an id, to change.
            pub fn get_mut(&mut self, id: $id) -> Option<&mut T> { self.rows.get_mut(id.index()).and_then(Option::as_mut) }

            /// Sets the entry of an id and returns the former one.
            pub fn insert(&mut self, id: $id, row: T) -> Option<T> {
                let i = id.index();
                if self.rows.len() <= i { self.rows.resize_with(i + 1, || None); }
                self.rows[i].replace(row)
            }

            /// Removes the entry of an id.
            pub fn remove(&mut self, id: $id) -> Option<T> { self.rows.get_mut(id.index()).and_then(Option::take) }

            /// True if the id has an entry.
            pub fn contains(&self, id: $id) -> bool { self.get(id).is_some() }

            /// Entries in order of ids.
            pub fn iter(&self) -> impl Iterator<Item = ($id, &T)> {
                self.rows.iter().enumerate().filter_map(|(i, r)| r.as_ref().map(|r| ($id::new(i), r)))
            }

            /// Number of entries; linear in the size of the table.
            pub fn count(&self) -> usize { self.rows.iter().filter(|r| r.is_some()).count() }
        }
    };
}

table!(
    /// Facts about values of one graph, indexed by [`ValueId`].
    ValueTable,
    ValueId
);
table!(
    /// Facts about operators of one graph, indexed by [`OpId`].
    OpTable,
    OpId
);
