"""Checkpoint folders in the exact form people have, only small: the hub's, and finetune.py's.

Weights, image settings and results are the golden ones (test/golden/openvla_tiny, *.released.*).
The tokenizer has Llama's 32000 pieces, and rules that turn the prompts of ``SENTENCES`` into the
golden input ids, so that whoever comes in with a sentence must get the golden tokens.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers
from transformers import LlamaConfig

GOLDEN = Path(__file__).parents[1] / 'golden'
TINY = GOLDEN / 'openvla_tiny'
DATASETS = Path(__file__).parents[2] / 'config' / 'datasets'
EXPECTED = dict(np.load(TINY / 'expected.released.npz'))
IMAGES = [np.asarray(Image.open(TINY / f'image_{i}.png').convert('RGB')).copy() for i in range(8)]
_WORDS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven')
SENTENCES = [f'golden {word}' for word in _WORDS]
VOCABULARY, SPACE = 32000, 29871
_RLDS = '_dataset_converted_externally_to_rlds'
#: The 25 data sets of openvla-7b's config.json.
HUB_KEYS = (
    'bridge_orig',
    'fractal20220817_data',
    'kuka',
    'taco_play',
    'jaco_play',
    'berkeley_cable_routing',
    'roboturk',
    'viola',
    'berkeley_autolab_ur5',
    'toto',
    f'stanford_hydra{_RLDS}',
    f'austin_buds{_RLDS}',
    f'nyu_franka_play{_RLDS}',
    f'furniture_bench{_RLDS}',
    f'ucsd_kitchen{_RLDS}',
    f'austin_sailor{_RLDS}',
    f'austin_sirius{_RLDS}',
    'dlr_edan_shared_control_converted_externally_to_rlds',
    'iamlab_cmu_pickup_insert_converted_externally_to_rlds',
    'utaustin_mutex',
    'berkeley_fanuc_manipulation',
    'cmu_stretch',
    'bc_z',
    'fmb_dataset',
    'dobbe',
)
_MODULES = ('configuration_prismatic', 'modeling_prismatic', 'processing_prismatic')


def write_hub_checkpoint(folder):
    """Every file of openvla/openvla-7b on the hub, with its keys; returns the folder."""
    config = _config()
    config['auto_map'] = {
        'AutoConfig': 'configuration_prismatic.OpenVLAConfig',
        'AutoModelForVision2Seq': 'modeling_prismatic.OpenVLAForActionPrediction',
    }
    _write(folder, config, _released(), shards=3)
    (folder / 'README.md').write_text('---\nlicense: mit\n---\n')
    (folder / '.gitattributes').write_text('*.safetensors filter=lfs diff=lfs merge=lfs -text\n')
    for module in _MODULES:
        (folder / f'{module}.py').write_text("raise RuntimeError('remote code was run')\n")
    return folder


def write_finetuned_checkpoint(folder):
    """What vla-scripts/finetune.py leaves in its run folder after merging; returns the folder.

    config.json still lists the base's data sets, and auto_map points to files on the hub.
    """
    config = {**_config(), '_name_or_path': 'openvla/openvla-7b'}
    config['auto_map'] = {
        'AutoConfig': 'openvla/openvla-7b--configuration_prismatic.OpenVLAConfig',
        'AutoModelForVision2Seq': (
            'openvla/openvla-7b--modeling_prismatic.OpenVLAForActionPrediction'
        ),
    }
    released = _released()
    released['auto_map'] = {k: f'openvla/openvla-7b--{v}' for k, v in released['auto_map'].items()}
    _write(folder, config, released, shards=4)
    golden = json.loads((TINY / 'config.json').read_text())['norm_stats']
    statistics = {
        key: {**entry, 'proprio': _zeros(len(entry['action']['q01']))}
        for key, entry in golden.items()
    }
    _json(folder / 'dataset_statistics.json', statistics)
    return folder


def write_transformers_5_checkpoint(folder):
    """The fine-tuned checkpoint, loaded and saved again by transformers 5; returns the folder.

    Its processor_config.json holds the image settings, config.json says dtype, and the language
    model's part is written with rope_parameters.
    """
    write_finetuned_checkpoint(folder)
    config = json.loads((folder / 'config.json').read_text())
    config['text_config'] = LlamaConfig(**config['text_config']).to_dict()
    assert 'rope_parameters' in config['text_config']
    config['dtype'] = config.pop('torch_dtype')
    _json(folder / 'config.json', config)
    processor = {'image_processor': _released(), 'processor_class': 'PrismaticProcessor'}
    _json(folder / 'processor_config.json', processor)
    tokenizer = json.loads((folder / 'tokenizer_config.json').read_text())
    del tokenizer['added_tokens_decoder']
    tokenizer |= {'backend': 'tokenizers', 'tokenizer_class': 'TokenizersBackend'}
    _json(folder / 'tokenizer_config.json', tokenizer)
    for name in ('preprocessor_config', 'special_tokens_map', 'added_tokens'):
        (folder / f'{name}.json').unlink()
    (folder / 'tokenizer.model').unlink()
    return folder


def write_adapter(folder, *, head):
    """An adapter folder as finetune.py saves it (peft 0.11.1), with the golden statistics.

    Args:
        folder: Made.
        head: The head it was trained on: 'same' as the golden checkpoint's, or 'other'.
    """
    folder.mkdir(parents=True)
    layer, rank = 'base_model.model.language_model.model.layers.0.self_attn.q_proj', 4
    base = load_file(TINY / 'model.safetensors')['language_model.lm_head.weight']
    tensors = {
        f'{layer}.lora_A.weight': base.new_full((rank, 64), 0.01),
        f'{layer}.lora_B.weight': base.new_full((64, rank), 0.01),
        'base_model.model.language_model.lm_head.base_layer.weight': (
            base if head == 'same' else base + 0.5
        ),
    }
    save_file(tensors, folder / 'adapter_model.safetensors', metadata={'format': 'pt'})
    config = {
        'alpha_pattern': {}, 'auto_mapping': None, 'base_model_name_or_path': 'openvla/openvla-7b',
        'bias': 'none', 'fan_in_fan_out': False, 'inference_mode': True,
        'init_lora_weights': 'gaussian', 'layer_replication': None, 'layers_pattern': None,
        'layers_to_transform': None, 'loftq_config': {}, 'lora_alpha': rank, 'lora_dropout': 0.0,
        'megatron_config': None, 'megatron_core': 'megatron.core', 'modules_to_save': None,
        'peft_type': 'LORA', 'r': rank, 'rank_pattern': {}, 'revision': None,
        'target_modules': ['q_proj', 'lm_head'], 'task_type': None, 'use_dora': False,
        'use_rslora': False,
    }  # fmt: skip
    _json(folder / 'adapter_config.json', config)
    _json(
        folder / 'dataset_statistics.json',
        json.loads((TINY / 'config.json').read_text())['norm_stats'],
    )
    return folder


def write_profiles(folder):
    """Dataset profiles that leave the resize to the processor, as the golden data was made."""
    folder.mkdir(parents=True, exist_ok=True)
    text = (DATASETS / 'bridge_orig.yaml').read_text().replace('resize: lanczos3', 'resize: none')
    text = text.replace('jpeg_roundtrip: true', 'jpeg_roundtrip: false')
    assert 'resize: none' in text
    assert 'jpeg_roundtrip: false' in text
    for key in ('bridge_orig', 'bridge_like'):
        named = text.replace('unnorm_key: bridge_orig', f'unnorm_key: {key}')
        (folder / f'{key}.yaml').write_text(named)
    return folder


def expected_tokens(i):
    """The golden tokens of an action of seven: decoding is greedy, so eight begin with seven."""
    return EXPECTED[f'tokens_{i}'][:7].tolist()


def expected_action(i, folder, key):
    """The tokens in dataset units by the formula: bin centers, then q01 to q99 where masked."""
    statistics = Path(folder) / 'dataset_statistics.json'
    if statistics.is_file():
        action = json.loads(statistics.read_text())[key]['action']
    else:
        action = json.loads((Path(folder) / 'config.json').read_text())['norm_stats'][key][
            'action'
        ]
    index = np.clip(VOCABULARY - np.array(expected_tokens(i)) - 1, 0, 254)
    center = (2.0 * index - 254.0) / 255.0
    low, high = np.array(action['q01']), np.array(action['q99'])
    return np.where(action['mask'], 0.5 * (center + 1.0) * (high - low) + low, center)


def _write(folder, config, preprocessor, shards):
    folder.mkdir(parents=True, exist_ok=True)
    _json(folder / 'config.json', config)
    _json(folder / 'preprocessor_config.json', preprocessor)
    _json(
        folder / 'generation_config.json',
        {
            '_from_model_config': True,
            'bos_token_id': 1,
            'eos_token_id': 2,
            'pad_token_id': 32000,
            'transformers_version': '4.40.1',
        },
    )
    _write_tokenizer(folder)
    _write_shards(folder, shards)


def _config():
    config = json.loads((TINY / 'config.json').read_text())
    config['norm_stats'] = {key: _statistics(i, key) for i, key in enumerate(HUB_KEYS)}
    return config


def _released():
    return json.loads((TINY / 'preprocessor_config.released.json').read_text())


def _statistics(i, key):
    known = GOLDEN / 'norm_stats' / f'{key}.json'
    if known.is_file():
        return json.loads(known.read_text())[key]
    reach = 0.01 + 0.001 * i
    high = [*[reach] * 3, *[2.0 * reach] * 3, 1.0]
    low = [*[-x for x in high[:6]], 0.0]
    action = {'mask': [True] * 6 + [False], 'max': high, 'mean': [0.0] * 7, 'min': low}
    action |= {'q01': low, 'q99': high, 'std': [1.0] * 7}
    counts = {'num_trajectories': 10 + i, 'num_transitions': 1000 + i}
    return {'action': action, **counts, 'proprio': _zeros(7)}


def _zeros(count):
    return {name: [0.0] * count for name in ('max', 'mean', 'min', 'q01', 'q99', 'std')}


def _write_shards(folder, count):
    tensors = load_file(TINY / 'model.safetensors')
    names, weight_map = sorted(tensors), {}
    for number in range(count):
        file = f'model-{number + 1:05d}-of-{count:05d}.safetensors'
        part = names[number * len(names) // count : (number + 1) * len(names) // count]
        save_file({n: tensors[n] for n in part}, folder / file, metadata={'format': 'pt'})
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {'metadata': {'total_size': total}, 'weight_map': weight_map}
    _json(folder / 'model.safetensors.index.json', index)


def _write_tokenizer(folder):
    pieces = _pieces()
    tokenizer = Tokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, [], byte_fallback=True, unk_token='<unk>')
    )
    rules = [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
    for i, sentence in enumerate(SENTENCES):
        prompt = f'▁In: What action should the robot take to {sentence}?\nOut:'.replace(' ', '▁')
        # Byte 0x0A is piece 13 and has no letter of its own.
        ids = EXPECTED[f'input_ids_{i}'][1:]
        text = ''.join('\n' if token == 13 else pieces[token] for token in ids)
        rules.append(normalizers.Replace(prompt, text))
    tokenizer.normalizer = normalizers.Sequence(rules)
    tokenizer.add_special_tokens(['<unk>', '<s>', '</s>', '<PAD>'])
    tokenizer.save(str(folder / 'tokenizer.json'))
    special = {'lstrip': False, 'normalized': False, 'rstrip': False, 'single_word': False}
    named = {'bos_token': '<s>', 'eos_token': '</s>', 'pad_token': '<PAD>', 'unk_token': '<unk>'}
    ids = {'<unk>': 0, '<s>': 1, '</s>': 2, '<PAD>': VOCABULARY}
    _json(folder / 'added_tokens.json', {'<PAD>': VOCABULARY})
    _json(
        folder / 'special_tokens_map.json',
        {name: {'content': token, **special} for name, token in named.items()},
    )
    _json(
        folder / 'tokenizer_config.json',
        {
            'add_bos_token': True,
            'add_eos_token': False,
            'added_tokens_decoder': {
                str(i): {'content': token, **special, 'special': True} for token, i in ids.items()
            },
            'auto_map': {'AutoProcessor': 'processing_prismatic.PrismaticProcessor'},
            **named,
            'clean_up_tokenization_spaces': False,
            'legacy': False,
            'model_max_length': 2048,
            'padding_side': 'right',
            'processor_class': 'PrismaticProcessor',
            'sp_model_kwargs': {},
            'tokenizer_class': 'LlamaTokenizer',
            'use_default_system_prompt': False,
        },
    )
    (folder / 'tokenizer.model').write_bytes(b'\n\x0e\n\x05<unk>')  # never read


def _pieces():
    """Llama's layout: specials, bytes, letters somewhere, the lone space at its id."""
    pieces = ['<unk>', '<s>', '</s>', *(f'<0x{byte:02X}>' for byte in range(256))]
    pieces += [chr(0xF0000 + i) for i in range(len(pieces), VOCABULARY)]
    golden = {int(token) for i in range(8) for token in EXPECTED[f'input_ids_{i}']}
    free = (i for i in range(1000, 2000) if i not in golden)
    for letter in 'abcdefghijklmnopqrstuvwxyzIOWU:?.':
        pieces[next(free)] = letter
    pieces[SPACE] = '▁'
    return pieces


def _json(path, content):
    path.write_text(json.dumps(content, indent=2) + '\n')
