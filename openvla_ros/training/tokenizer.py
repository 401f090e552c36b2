"""A small tokenizer with Llama's rules, so that a small checkpoint is prompted as a large one.

What it shares with Llama's: spaces become '▁' and one is put in front, byte fallback for whatever
is not in the vocabulary, ``<s>`` in front of every text, a lone '▁' token (the prompt rule appends
it), and the last 256 ids are the action bins. Those are the 256 Braille patterns here, pieces that
no sentence contains.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from openvla_ros.observation.prompt import build_prompt

NUM_ACTION_BINS = 256
#: Rows of the embedding beyond the tokenizer, as upstream: one for <PAD>, the rest unused.
PAD_TO_MULTIPLE_OF = 64
_SPECIAL = ('<unk>', '<s>', '</s>')
_BYTES = tuple(f'<0x{byte:02X}>' for byte in range(256))
_ACTIONS = tuple(chr(0x2800 + index) for index in range(NUM_ACTION_BINS))
_ALPHABET = '▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;?!\'"()-\n'
# The words around the instruction are the same in every prompt: one piece each side keeps the
# sequence short, which is most of what a small model spends its time on.
_BEFORE, _AFTER = build_prompt('\0', 'openvla').split('\0')
_TEMPLATE_HALVES = ('▁' + _BEFORE.strip().replace(' ', '▁'), _AFTER)
_WORD = r'▁?[A-Za-z]+|[\s\S]'


def build_tokenizer(sentences: Iterable[str]) -> Tokenizer:
    """Learn byte-pair merges from instructions and add the pieces every prompt needs.

    Args:
        sentences: Instructions; every word of theirs becomes one token if frequent enough.

    Returns:
        A tokenizer whose vocabulary size V makes [V-256, V-1] the action tokens.
    """
    learned = _learn(sentences)
    vocabulary: dict[str, int] = {}
    for piece in (*_SPECIAL, *_BYTES, *_ALPHABET):
        vocabulary.setdefault(piece, len(vocabulary))
    merges: list[tuple[str, str]] = []
    for left, right in learned:
        vocabulary.setdefault(left + right, len(vocabulary))
        merges.append((left, right))
    for piece in _ACTIONS:
        vocabulary[piece] = len(vocabulary)
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token='<unk>', byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace('▁', ' '),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(' ', 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single='<s> $A', pair='<s> $A <s> $B', special_tokens=[('<s>', vocabulary['<s>'])]
    )
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.add_special_tokens(['<PAD>'])
    return tokenizer


def _learn(sentences: Iterable[str]) -> list[tuple[str, str]]:
    """Merges inside words, then those that glue the words of the template together.

    No other merge crosses a word's border, so a sentence is split into its own words.
    """
    scratch = Tokenizer(models.BPE())
    scratch.normalizer = normalizers.Sequence(
        [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
    )
    scratch.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), behavior='isolated')
    trainer = BpeTrainer(
        vocab_size=4096, min_frequency=2, initial_alphabet=list(_ALPHABET), show_progress=False
    )
    corpus = [build_prompt(sentence, 'openvla') for sentence in sentences]
    scratch.train_from_iterator(corpus * 2, trainer)
    merges = [(left, right) for left, right in json.loads(scratch.to_str())['model']['merges']]
    for half in _TEMPLATE_HALVES:
        first, *rest = re.findall(_WORD, half)
        for word in rest:
            merges.append((first, word))
            first += word
    return merges


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json as a released checkpoint has them."""
    tokenizer.save(str(folder / 'tokenizer.json'))
    config = {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'bos_token': '<s>',
        'eos_token': '</s>',
        'unk_token': '<unk>',
        'pad_token': '<PAD>',
        'padding_side': 'right',
        'model_max_length': 512,
        'add_bos_token': True,
        'add_eos_token': False,
    }
    (folder / 'tokenizer_config.json').write_text(json.dumps(config, indent=2) + '\n')


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer that ``save_tokenizer`` wrote."""
    return Tokenizer.from_file(str(folder / 'tokenizer.json'))


def unpadded_vocabulary_size(tokenizer: Tokenizer) -> int:
    """V: the vocabulary without ``<PAD>``, whose last 256 ids are the action bins."""
    return int(tokenizer.get_vocab_size(with_added_tokens=False))
