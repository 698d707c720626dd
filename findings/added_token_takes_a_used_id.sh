#!/usr/bin/env bash
# add_tokens hands out an id that another token has, where the ids of a vocabulary have holes.
#
# Versions: tokenizers 0.23.3, transformers 5.23.0, torch 2.13.0, Python 3.11.
# One would guess: a new token gets an id that is free, above the highest in use.
# What happens: ids are given from len(tokenizer) upwards, which is the number of tokens. With the ids 0, 1, 4 the three
#   new tokens get 3, 4, 5. From then on 4 is encoded from both and decoded as the new one: decode(encode("a b"))
#   is "a y", although neither word was touched. len(tokenizer) is 6 afterwards, which looks right. Where no
#   used id is among the three, all is well. tokenizers does the same on its own.
# Where: tokenizers, AddedVocabulary::add_tokens counts upwards from model.get_vocab_size(), the number of entries.
# So: compare len(set(vocab.values())) with len(vocab) after tokens were added.
. "$(dirname "$0")/lib.sh"
packages torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3
python <<'END'
import tokenizers, transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

print("tokenizers", tokenizers.__version__, "transformers", transformers.__version__)
CASES = {  # vocabulary, does an id clash
    "0 1 2": ({"u": 0, "a": 1, "b": 2}, False),
    "0 1 4": ({"u": 0, "a": 1, "b": 4}, True),
    "0 1 3 5": ({"u": 0, "a": 1, "b": 3, "c": 5}, True),
    "0 1 90": ({"u": 0, "a": 1, "b": 90}, False),
}
for label, (vocabulary, clashes) in CASES.items():
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="u"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="u")
    text = " ".join(word for word in vocabulary if word != "u")
    assert tokenizer.decode(tokenizer.encode(text)) == text
    tokenizer.add_tokens(["x", "y", "z"])
    given = tokenizer.convert_tokens_to_ids(["x", "y", "z"])
    decoded = tokenizer.decode(tokenizer.encode(text))
    vocab = tokenizer.get_vocab()
    print(f"ids {label:8} x, y, z get {given}; decode(encode({text!r})) = {decoded!r};",
          f"{len(vocab)} tokens, {len(set(vocab.values()))} ids, len {len(tokenizer)}")
    assert (decoded != text) == (len(set(vocab.values())) < len(vocab)) == clashes
    raw_twin = Tokenizer(models.WordLevel(vocabulary, unk_token="u"))
    raw_twin.add_tokens(["x", "y", "z"])
    assert [raw_twin.token_to_id(token) for token in "xyz"] == given
END
