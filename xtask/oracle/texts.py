"""Texts as calibration data: the numbers that squint makes of them are those of the `tokenizers` package.

Tokenizers of every kind that squint reads are trained on texts here, or taken from the zoo, and a model that returns its
input is run on other texts.
"""

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from charsmap import charsmap
from compiler import Squint
from report import Report

NAME = "texts"
"""Name of this part."""

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
SIZE = 600
LINES = 300

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 and others split text."""

EVERYDAY = [
    "The quick brown fox jumps over the lazy dog, and then it rests.",
    "A café in Zürich serves naïve tourists crème brûlée for 12.50 francs!",
    "don't you'll we've they're I'm she'd it's",
    "Numbers: 3.14159, 1,000,000 and 2026-11-27; e-mail: a.b@example.org",
    "多语言文本 mixed with English 和 日本語テキスト",
    "emoji 😀👍🏽 and   runs  of spaces",
    "ＦＵＬＬ ｗｉｄｔｈ ﬁne ligatures Ⅳ ½",
    "Straße ΑΒΓΣ ΟΔΟΣ İstanbul",
    "tabs\tand\u00a0hard spaces\u200b, soft\u00adhyphens",
    "हिन्दी العربية עברית ไทย한국어",
    "<s> looks like a token</s>",
    "MiXeD CaSe wOrDs_with_underscores and-hyphens/slashes",
    "decomposed: cafe\u0301 e\u0301\u0323 A\u030a, families 👨‍👩‍👧 and flags 🇨🇭🇯🇵, 각 한",
    "  find fi \u200b\u00ad ①②③ ㌔ ﷺ",
]
"""Texts with what tokenizers trip over."""


def check(squint: Squint, zoo: Path, folder: Path, report: Report) -> None:
    """Compares all tokenizers."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "identity.onnx"
    names = {"a": "input_ids", "b": "attention_mask", "c": "token_type_ids"}
    inputs, outputs = (", ".join(f"int64[N,S] {n}" for n in side) for side in (names.values(), names))
    body = " ".join(f"{result} = Identity ({name})" for result, name in names.items())
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {{ {body} }}'
    onnx.save(onnx.parser.parse_model(text), model)
    texts = EVERYDAY + _zoo_texts(zoo)
    lines = [t for t in (" ".join(t.splitlines()) for t in texts) if t.strip()]
    data = folder / "texts.txt"
    data.write_text("\n".join(lines), encoding="utf-8")
    for name, tokenizer in _trained(lines).items():
        path = folder / f"{name}.json"
        tokenizer.save(str(path))
        _compare(name, path, model, data, lines, squint, report)
    given = zoo / "dev" / "data" / "text" / "minilm_tokenizer.json"
    if given.exists():
        _compare("minilm", given, model, data, lines, squint, report)


def _compare(name: str, path: Path, model: Path, data: Path, lines: list[str], squint: Squint, report: Report) -> None:
    with report.step(f"{NAME}/{name}"):
        tokenizer = Tokenizer.from_file(str(path))
        outputs = data.parent / name
        shutil.rmtree(outputs, ignore_errors=True)
        squint.run("run", model, "-o", outputs, "--data", data, "--tokenizer", path)
        wrong = []
        for i, line in enumerate(lines):
            expected = tokenizer.encode(line)
            found = np.load(outputs / f"{i:04d}.npz")
            pairs = (("a", expected.ids), ("b", expected.attention_mask), ("c", expected.type_ids))
            if any(found[key].tolist() != [values] for key, values in pairs):
                wrong.append(line)
        detail = f"{len(lines) - len(wrong)} of {len(lines)} texts"
        report.check(f"{NAME}/{name}", not wrong, detail + (f"; the first that differs: {wrong[0]!r}" if wrong else ""))


def _zoo_texts(zoo: Path) -> list[str]:
    texts = []
    folder = zoo / "dev" / "data" / "text"
    for file in ("sts-test.tsv", "tinystories.txt", "tinyshakespeare_val.txt"):
        if (folder / file).exists():
            texts += (folder / file).read_text(encoding="utf-8").splitlines()[:LINES]
    return texts


def _trained(lines: list[str]) -> dict[str, Tokenizer]:
    made = {}

    def put(name, model, trainer, normalizer=None, splitter=None, frame=None, pad=None, cut=None):
        tokenizer = Tokenizer(model)
        if normalizer is not None:
            tokenizer.normalizer = normalizer
        if splitter is not None:
            tokenizer.pre_tokenizer = splitter
        tokenizer.train_from_iterator(lines, trainer)
        if frame is not None:
            tokenizer.post_processor = frame
        if pad is not None:
            tokenizer.enable_padding(**pad)
        if cut is not None:
            tokenizer.enable_truncation(**cut)
        made[name] = tokenizer

    bpe = trainers.BpeTrainer(vocab_size=SIZE, special_tokens=SPECIAL, show_progress=False)
    bytes_bpe = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    unigram = trainers.UnigramTrainer(vocab_size=SIZE, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    pieces = trainers.WordPieceTrainer(vocab_size=SIZE, special_tokens=["<unk>"], show_progress=False)
    words = trainers.WordLevelTrainer(vocab_size=SIZE, special_tokens=SPECIAL, show_progress=False)

    put("gpt2", models.BPE(), bytes_bpe, splitter=pre_tokenizers.ByteLevel(add_prefix_space=False))
    put(
        "roberta", models.BPE(), bytes_bpe, splitter=pre_tokenizers.ByteLevel(add_prefix_space=True),
        frame=processors.RobertaProcessing(("</s>", 2), ("<s>", 1)), pad={"pad_id": 3, "pad_to_multiple_of": 8}, cut={"max_length": 24},
    )
    put(
        "llama3", models.BPE(ignore_merges=True), bytes_bpe,
        splitter=pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(CL100K), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]),
        frame=processors.TemplateProcessing("<s> $A", None, [("<s>", 1)]),
    )
    put(
        "llama2", models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True), bpe,
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        frame=processors.TemplateProcessing("<s> $A", None, [("<s>", 1)]),
    )
    put(
        "clip", models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"),
        trainers.BpeTrainer(vocab_size=SIZE, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False),
        normalizer=normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]),
        splitter=pre_tokenizers.Whitespace(),
    )
    put("unigram", models.Unigram(), unigram, normalizer=normalizers.NFKC(), splitter=pre_tokenizers.Metaspace())
    put(
        "unigram-first", models.Unigram(), unigram, normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
        splitter=pre_tokenizers.Metaspace(prepend_scheme="first", split=False), pad={"length": 40, "direction": "left", "pad_id": 3},
        cut={"max_length": 40, "direction": "left"},
    )
    put(
        "wordpiece", models.WordPiece(unk_token="<unk>", max_input_chars_per_word=20), pieces,
        normalizer=normalizers.BertNormalizer(lowercase=False), splitter=pre_tokenizers.BertPreTokenizer(),
        frame=processors.BertProcessing(("<unk>", 0), ("<unk>", 0)),
    )
    put(
        "words", models.WordLevel(unk_token="<unk>"), words, normalizer=normalizers.Lowercase(),
        splitter=pre_tokenizers.Sequence([
            pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("merged_with_previous"), pre_tokenizers.Digits(True),
        ]),
    )
    put(
        "delimited", models.WordLevel(unk_token="<unk>"), words,
        splitter=pre_tokenizers.Sequence([pre_tokenizers.CharDelimiterSplit(" "), pre_tokenizers.Punctuation("contiguous")]),
    )
    put(
        "sentencepiece", models.Unigram(), unigram, splitter=pre_tokenizers.Metaspace(),
        normalizer=normalizers.Sequence([
            normalizers.Precompiled(charsmap(_replacements(lines))), normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), "▁"),
        ]),
    )
    return made


def _replacements(lines: list[str]) -> dict[str, str]:
    """What SentencePiece replaces by its rule `nmt_nfkc`, of the characters of these texts, and some of several."""
    table = {c: unicodedata.normalize("NFKC", c) for line in lines for c in line}
    table |= {"\t": " ", "\n": " ", "\u200b": "", "\u00ad": "", "e\u0301": "é", "fi": "ﬁ", "👍🏽": "+", "\u0e44": "ai"}
    return {key: text for key, text in table.items() if key != text}
