//! The normalizer of SentencePiece models: a table of texts and what stands for them, as the `tokenizers` package
//! applies it.
//!
//! The field `precompiled_charsmap` is in base64: a length in bytes, a trie of so many, and all replacements, each
//! ended by a zero. The trie is a double array of 32-bit units as the C++ library Darts-clone writes it (J. Aoe, "An
//! efficient digital search algorithm by using a double-array structure", 1989), little-endian:
//!
//! | bits of a unit | hold |
//! |---|---|
//! | 0 to 7, 31 | the byte that leads there; bit 31 is set in leaves only |
//! | 8 | whether a key ends there: its leaf is at the offset |
//! | 9 | whether the offset counts in 256 units |
//! | 10 to 30 | the offset to the children, exclusive-or the place of the unit |
//! | 0 to 30 of a leaf | where the replacement begins |
//!
//! A text is taken apart into what a reader sees as characters. One of less than 6 bytes is replaced as a whole if any
//! key begins it, by what stands for the shortest such key; of all others, each code point by itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use unicode_segmentation::UnicodeSegmentation;

/// Bytes from which a character is looked up by its code points only.
const LONG: usize = 6;

/// The table.
#[derive(Debug)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    replacements: String,
}

impl Charsmap {
    /// # Errors
    /// If it is no base64, or its lengths or texts are wrong.
    pub(super) fn read(base64: &str) -> Result<Charsmap, String> {
        let wrong = |why: &str| format!("`precompiled_charsmap` of the normalizer {why}");
        let bytes = STANDARD.decode(base64).map_err(|e| wrong(&format!("is no base64: {e}")))?;
        let cut_off = || wrong("is cut off");
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(cut_off)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (trie, replacements) = rest.split_at_checked(length).ok_or_else(cut_off)?;
        let (units, odd) = trie.as_chunks::<4>();
        if units.is_empty() || !odd.is_empty() {
            return Err(wrong("has a trie of no whole units"));
        }
        let replacements = std::str::from_utf8(replacements).map_err(|_| wrong("is not in UTF-8"))?;
        Ok(Charsmap {
            units: units.iter().map(|u| u32::from_le_bytes(*u)).collect(),
            replacements: replacements.to_owned(),
        })
    }

    /// A text with its characters replaced.
    pub(super) fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for character in text.graphemes(true) {
            if let Some(by) = self.replacement(character).filter(|_| character.len() < LONG) {
                out.push_str(by);
                continue;
            }
            for c in character.chars() {
                match self.replacement(c.encode_utf8(&mut [0; 4])) {
                    Some(by) => out.push_str(by),
                    None => out.push(c),
                }
            }
        }
        out
    }

    /// What stands for the shortest key that a text begins with. Wherever the table leads out of itself, it ends.
    fn replacement(&self, text: &str) -> Option<&str> {
        let unit = |place: usize| self.units.get(place).copied();
        let mut place = offset(unit(0)?);
        for byte in text.bytes() {
            place ^= usize::from(byte);
            let here = unit(place)?;
            if byte == 0 || here & (1 << 31 | 0xff) != u32::from(byte) {
                return None;
            }
            place ^= offset(here);
            if here & 1 << 8 != 0 {
                let start = (unit(place)? & !(1 << 31)) as usize;
                let rest = self.replacements.get(start..)?;
                return rest.split('\0').next();
            }
        }
        None
    }
}

/// What leads from the place of a unit to those of its children.
fn offset(unit: u32) -> usize {
    let by_256 = unit >> 9 & 1 == 1;
    ((unit >> 10) << if by_256 { 8 } else { 0 }) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with a single key `ab`, and `xy` for it: units at places that suit the exclusive or.
    fn table() -> Vec<u8> {
        let mut units = vec![0u32; 256];
        // Children of the root are at 128 ^ byte, those of `a` at 64 ^ ..., the leaf of `ab` at 32 ^ ...
        units[0] = 128 << 10;
        let a = 128 ^ usize::from(b'a');
        units[a] = u32::from(b'a') | ((a ^ 64) as u32) << 10;
        let b = 64 ^ usize::from(b'b');
        units[b] = u32::from(b'b') | 1 << 8 | ((b ^ 32) as u32) << 10;
        units[32] = 1 << 31 | 2;
        let mut bytes = (units.len() as u32 * 4).to_le_bytes().to_vec();
        bytes.extend(units.iter().flat_map(|u| u.to_le_bytes()));
        bytes.extend(b"-\0xy\0");
        bytes
    }

    #[test]
    fn keys_are_replaced_where_they_begin_a_character() {
        let map = Charsmap::read(&STANDARD.encode(table())).unwrap();
        assert_eq!(map.replacement("ab"), Some("xy"));
        assert_eq!(map.replacement("abc"), Some("xy"), "the shortest key that begins it");
        assert_eq!(map.replacement("a"), None);
        assert_eq!(map.replacement("b"), None);
        // Each letter is a character of its own.
        assert_eq!(map.apply("ab"), "ab");
        assert_eq!(map.apply("é\0"), "é\0");
    }

    #[test]
    fn what_is_damaged_is_refused_or_read_as_far_as_it_goes() {
        let refused = |bytes: &[u8]| Charsmap::read(&STANDARD.encode(bytes)).unwrap_err();
        assert!(Charsmap::read("?").unwrap_err().contains("is no base64"));
        assert!(refused(b"").ends_with("is cut off"));
        assert!(refused(&table()[..100]).ends_with("is cut off"));
        assert!(refused(&[4, 0, 0, 0, 1, 2]).ends_with("is cut off"));
        assert!(refused(&[3, 0, 0, 0, 1, 2, 3]).ends_with("has a trie of no whole units"));
        assert!(refused(&[0, 0, 0, 0]).ends_with("has a trie of no whole units"));
        assert!(refused(&[4, 0, 0, 0, 0, 0, 0, 0, 0xff]).ends_with("is not in UTF-8"));
        // Offsets and beginnings of texts that lie outside lead nowhere.
        let mut far = table();
        far[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Charsmap::read(&STANDARD.encode(far)).unwrap().apply("ab"), "ab");
        let mut behind = table();
        behind[4 + 32 * 4] = 200;
        assert_eq!(Charsmap::read(&STANDARD.encode(behind)).unwrap().replacement("ab"), None);
    }
}
