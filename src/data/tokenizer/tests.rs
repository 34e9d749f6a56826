//! What the Python package `tokenizers` 0.23 makes of the same files and texts. (`cargo xtask oracle --only texts`
//! compares larger ones.)

use super::*;
use serde_json::json;

fn tokenizer(file: &Value) -> Tokenizer {
    Tokenizer::read(&file.to_string()).unwrap()
}

fn ids(t: &Tokenizer, text: &str) -> Vec<u32> {
    t.encode(text, Bounds::default()).unwrap().ids
}

fn special(id: u32, content: &str, lstrip: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": lstrip, "rstrip": false,
           "normalized": false, "special": true})
}

/// As BERT's, with a small vocabulary.
fn bert() -> Value {
    json!({
        "added_tokens": [special(0, "[PAD]", false), special(2, "[CLS]", false), special(4, "[MASK]", true)],
        "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "[PAD]"},
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 1}},
                       {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                               "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}},
        },
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 12,
                  "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "un": 5, "##want": 6,
                            "##ed": 7, "cafe": 8, "!": 9, "日": 10, "the": 11}},
    })
}

#[test]
fn word_pieces() {
    let t = tokenizer(&bert());
    let e = t.encode("Unwanted café!", Bounds::default()).unwrap();
    assert_eq!(e.ids, [2, 5, 6, 7, 8, 9, 3, 0]);
    assert_eq!(e.types, [0, 1, 1, 1, 1, 1, 0, 0]);
    assert_eq!(e.mask, [1, 1, 1, 1, 1, 1, 1, 0]);
    assert_eq!(ids(&t, "the\u{a0}日the"), [2, 11, 10, 11, 3, 0, 0, 0]);
    assert_eq!(ids(&t, "the [MASK] xyz"), [2, 11, 4, 1, 3, 0, 0, 0]);
    assert_eq!(ids(&t, ""), [2, 3, 0, 0, 0, 0, 0, 0]);
    assert_eq!(ids(&t, "unwantedunwanted"), [2, 1, 3, 0, 0, 0, 0, 0]);
    assert_eq!(ids(&t, "the the the the the the the"), [2, 11, 11, 11, 11, 11, 11, 3]);
}

#[test]
fn bounds_of_the_model() {
    let t = tokenizer(&bert());
    let bounded = |max, exact| t.encode("the the the the", Bounds { max, exact });
    assert_eq!(bounded(Some(5), None).unwrap().ids, [2, 11, 11, 11, 3]);
    assert_eq!(bounded(Some(7), None).unwrap().ids, [2, 11, 11, 11, 11, 3, 0]);
    assert_eq!(bounded(None, Some(10)).unwrap().ids, [2, 11, 11, 11, 11, 3, 0, 0, 0, 0]);
    assert_eq!(bounded(None, Some(4)).unwrap().ids, [2, 11, 11, 3]);
    let error = bounded(Some(1), None).unwrap_err();
    assert_eq!(error, "a length of 1 leaves no room for the 2 special tokens around each text");
    let plain = tokenizer(&json!({"model": {"type": "WordLevel", "vocab": {"a": 0}}}));
    let exact = Bounds { max: None, exact: Some(2) };
    assert!(plain.encode("a", exact).unwrap_err().contains("has no token to pad with"));
    assert!(plain.encode("b", Bounds::default()).unwrap_err().contains("no token for `b`"));
}

#[test]
fn bytes_as_characters() {
    let t = tokenizer(&json!({
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE",
                  "vocab": {"l": 0, "o": 1, "w": 2, "e": 3, "r": 4, "Ġ": 5, "lo": 6, "low": 7, "er": 8, "Ġlow": 9,
                            "Ã": 10, "©": 11, "!": 12, "Ċ": 13},
                  "merges": ["l o", "lo w", ["e", "r"], ["Ġ", "low"]]},
    }));
    assert_eq!(ids(&t, "lower low!"), [7, 8, 9, 12]);
    assert_eq!(ids(&t, "low  low\n"), [7, 5, 9, 13]);
    assert_eq!(ids(&t, "éé lower"), [10, 11, 10, 11, 9, 8]);
}

#[test]
fn bytes_where_characters_are_unknown() {
    let t = tokenizer(&json!({
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "added_tokens": [special(0, "<unk>", false), special(1, "<s>", false)],
        "post_processor": {"type": "BertProcessing", "sep": ["<s>", 1], "cls": ["<s>", 1]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
                  "vocab": {"<unk>": 0, "<s>": 1, "▁": 2, "a": 3, "b": 4, "▁a": 5, "ab": 6, "<0xC3>": 7, "<0xA9>": 8},
                  "merges": ["▁ a", "a b"]},
    }));
    assert_eq!(ids(&t, "ab a"), [1, 5, 4, 5, 1]);
    assert_eq!(ids(&t, "a é日日b"), [1, 5, 2, 7, 8, 0, 4, 1]);
    assert_eq!(ids(&t, "<s>ab"), [1, 1, 5, 4, 1]);
}

#[test]
fn the_best_sum_of_scores() {
    let t = tokenizer(&json!({
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true},
        "added_tokens": [special(7, "<x>", false)],
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": false,
                  "vocab": [["<unk>", 0.0], ["▁", -2.0], ["a", -3.0], ["b", -3.0], ["ab", -4.0], ["▁ab", -5.5],
                            ["▁a", -2.5]]},
    }));
    assert_eq!(ids(&t, "ab ab"), [5, 5]);
    assert_eq!(ids(&t, "<x>abab a"), [7, 4, 4, 6]);
    assert_eq!(ids(&t, "acca b"), [6, 0, 2, 1, 3]);
    assert_eq!(ids(&t, "  ab"), [1, 5]);
}

#[test]
fn words_from_the_left() {
    let t = tokenizer(&json!({
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": true, "strip_right": true}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Whitespace"}, {"type": "Digits", "individual_digits": true}]},
        "padding": {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": 4, "pad_id": 9,
                    "pad_type_id": 2, "pad_token": "<p>"},
        "truncation": {"direction": "Left", "max_length": 6, "strategy": "LongestFirst", "stride": 0},
        "model": {"type": "WordLevel", "unk_token": "<unk>",
                  "vocab": {"<unk>": 0, "ab": 1, "cd": 2, ".": 3, "1": 4, "2": 5, "fi": 6}},
    }));
    let e = t.encode(" AB cd. 12", Bounds::default()).unwrap();
    assert_eq!(e.ids, [9, 9, 9, 1, 2, 3, 4, 5]);
    assert_eq!(e.types, [2, 2, 2, 0, 0, 0, 0, 0]);
    assert_eq!(e.mask, [0, 0, 0, 1, 1, 1, 1, 1]);
    assert_eq!(ids(&t, "ﬁ ab_cd"), [9, 9, 6, 0]);
    assert_eq!(ids(&t, "ab ab ab cd cd cd 2 1"), [9, 9, 1, 2, 2, 2, 5, 4]);
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut file = bert();
        change(&mut file);
        Tokenizer::read(&file.to_string()).unwrap_err()
    };
    let cannot = "cannot be followed: ";
    assert_eq!(
        refused(&|f| f["normalizer"] = json!({"type": "Nmt"})),
        format!("{cannot}its normalizer `Nmt` is not supported")
    );
    assert_eq!(
        refused(&|f| f["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": ""})),
        format!("{cannot}`precompiled_charsmap` of the normalizer is cut off")
    );
    assert_eq!(
        refused(&|f| f["pre_tokenizer"]["type"] = "UnicodeScripts".into()),
        format!("{cannot}its pre-tokenizer `UnicodeScripts` is not supported")
    );
    assert_eq!(
        refused(&|f| f["model"]["type"] = "Morfessor".into()),
        format!("{cannot}its model `Morfessor` is not supported")
    );
    assert_eq!(
        refused(&|f| f["model"]["unk_token"] = "?".into()),
        format!("{cannot}token `?` is not in the vocabulary")
    );
    assert!(
        refused(&|f| f["post_processor"]["special_tokens"] = json!({})).contains("no numbers for `[CLS]`")
    );
    assert!(refused(&|f| f["padding"]["strategy"] = json!({"Fixed": 1e15 as u64})).contains("`strategy`"));
    let bpe = json!({"type": "BPE", "dropout": 0.1, "vocab": {}, "merges": []});
    assert!(refused(&|f| f["model"] = bpe.clone()).contains("at random"));
    let regex = json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false});
    assert!(refused(&|f| f["pre_tokenizer"] = regex.clone()).contains("regular expression `(`"));
    assert!(Tokenizer::read("[]").unwrap_err().starts_with("is no tokenizer"));
    assert!(Tokenizer::read("{").unwrap_err().starts_with("is no JSON"));
}
