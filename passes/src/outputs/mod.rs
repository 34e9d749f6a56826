//! What the outputs of a network are, and how far those of another form of it are from them: the one notion that
//! planning, comparing, ranking, tuning and evaluating share.
//!
//! An output is either numbers, compared element by element, or classes, compared row by row, too ([`Kind`]). A row is all
//! classes of one answer: of a picture, of a step of a sequence, of a pixel. Sums over elements and rows
//! ([`OutputErrors`]) add up over samples, and say how much energy the difference has, how many rows agree, and how
//! much accuracy is expected to be lost; where rows are few, [`Expected`] tells more of them.

mod difference;
mod error;
mod expected;
mod kind;

pub use difference::{ClassErrors, OutputError, OutputErrors};
pub use error::Error;
pub use expected::Expected;
pub use kind::{Classes, Kind, Scale, classes_only, kinds, kinds_as_classes, largest};
