import base64
import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from openvla_ros.serving.protocol import (
    ProtocolError,
    decode_array,
    encode_array,
    parse_reply,
    parse_request,
    reply_body,
    request_body,
)

IMAGE = np.arange(16 * 20 * 3, dtype=np.uint8).reshape(16, 20, 3)


def test_an_array_is_written_as_json_numpy_writes_it():
    # Measured with json-numpy 2.1.1, the library of upstream's clients.
    array = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert encode_array(array) == {
        '__numpy__': 'AAECAwQFBgcICQoL',
        'dtype': '|u1',
        'shape': [2, 2, 3],
    }


def test_a_reply_is_byte_for_byte_upstreams():
    # Starlette's JSONResponse writes compact separators; the double-encoded form wraps json.dumps.
    data = base64.b64encode(np.array([0.5], '<f8').tobytes()).decode()
    plain = f'{{"__numpy__":"{data}","dtype":"<f8","shape":[1]}}'
    assert reply_body(np.array([0.5]), double_encoded=False) == plain.encode()
    wrapped = f'{{"__numpy__": "{data}", "dtype": "<f8", "shape": [1]}}'
    assert reply_body(np.array([0.5]), double_encoded=True) == json.dumps(wrapped).encode()


@pytest.mark.parametrize('double_encoded', [False, True])
def test_a_reply_comes_back_as_it_was_sent(double_encoded):
    action = np.array([0.01, -0.02, 0.0, 1e-3, 2.0, -3.0, 0.99607843])
    assert (parse_reply(reply_body(action, double_encoded=double_encoded)) == action).all()


def test_a_request_comes_back_as_it_was_sent():
    request = parse_request(request_body(IMAGE, 'pick up the "red" block', 'bridge_orig'))
    assert (request.image == IMAGE).all()
    assert request.instruction == 'pick up the "red" block'
    assert request.unnorm_key == 'bridge_orig'
    assert not request.double_encoded


def test_a_double_encoded_request_is_understood_and_remembered():
    body = json.dumps({'encoded': request_body(IMAGE, 'go').decode()}).encode()
    request = parse_request(body)
    assert request.double_encoded
    assert request.unnorm_key is None
    assert (request.image == IMAGE).all()


def test_a_view_that_is_not_contiguous_is_sent_in_row_order():
    request = parse_request(request_body(IMAGE[:, ::-1], 'go'))
    assert (request.image == IMAGE[:, ::-1]).all()


@pytest.mark.parametrize('shape', [(16, 20), (16, 20, 2), (16, 20, 3), (16, 20, 4)])
def test_an_image_is_converted_as_upstreams_server_does(shape):
    sent = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    request = parse_request(request_body(sent, 'go'))
    assert (request.image == np.asarray(Image.fromarray(sent).convert('RGB'))).all()
    assert request.image.shape == (16, 20, 3)


def test_alpha_is_dropped_and_one_channel_is_the_brightness_of_all_three():
    rgba = np.concatenate([IMAGE, np.zeros((16, 20, 1), np.uint8)], axis=2)
    assert (parse_request(request_body(rgba, 'go')).image == IMAGE).all()
    gray = IMAGE[..., :1]
    assert (parse_request(request_body(gray, 'go')).image == np.repeat(gray, 3, axis=2)).all()


def test_a_large_image_comes_through_whole():
    large = np.random.default_rng(0).integers(0, 256, (2048, 3000, 3)).astype(np.uint8)
    assert (parse_request(request_body(large, 'go')).image == large).all()


@pytest.mark.parametrize('double_encoded', [False, True])
def test_a_request_of_openvla_oft_is_named(double_encoded):
    # The observation of moojink/openvla-oft, vla-scripts/deploy.py and experiments/robot/aloha.
    image = encode_array(IMAGE)
    content = {
        'full_image': image,
        'left_wrist_image': image,
        'state': encode_array(np.zeros(14)),
        'instruction': 'fold the shirt',
    }
    text = json.dumps(content)
    body = json.dumps({'encoded': text}) if double_encoded else text
    with pytest.raises(ProtocolError, match="left_wrist_image: this is OpenVLA-OFT's protocol"):
        parse_request(body.encode())


@pytest.mark.parametrize(
    'body',
    [
        b'[' + b'[],' * 200_000 + b'[]]',
        json.dumps({'image': IMAGE.tolist() * 200, 'instruction': 'go'}).encode(),
        json.dumps({'encoded': '[' + '[],' * 200_000 + '[]]'}).encode(),
    ],
)
def test_a_body_of_very_many_values_is_refused_unparsed(body):
    with pytest.raises(ProtocolError, match='values, expected 100000 at most'):
        parse_request(body)


def broken(**changes):
    content = {'image': encode_array(IMAGE), 'instruction': 'go', **changes}
    return json.dumps({key: value for key, value in content.items() if value is not ...}).encode()


def test_what_other_servers_are_told_is_ignored_as_upstream_does():
    request = parse_request(broken(state=[0.0] * 8, temperature=0.5))
    assert request.instruction == 'go'


@pytest.mark.parametrize(
    ('body', 'message'),
    [
        (b'', 'is not JSON'),
        (b'\xff\xfe', 'is not JSON'),
        (b'[' * 100_000, 'is not JSON'),
        (b'[]', 'got list, expected an object'),
        (broken(image=...), 'image is missing'),
        (broken(instruction=...), 'instruction is missing'),
        (broken(instruction=3), 'instruction is not text'),
        (broken(unnorm_key=3), 'unnorm_key is not text'),
        (broken(unorm_key='x'), r"unknown key 'unorm_key' \(did you mean 'unnorm_key'\?\)"),
        (broken(encoded='{}'), 'encoded must be the only key'),
        (broken(image=[1, 2]), 'expected an array'),
        (broken(image=encode_array(IMAGE.astype(np.float64))), "got type '<f8', expected"),
        (broken(image={**encode_array(IMAGE), 'dtype': '|O'}), "got type '|O', expected"),
        (broken(image={**encode_array(IMAGE), 'dtype': [['a', '|O']]}), 'expected'),
        (broken(image={**encode_array(IMAGE), 'shape': [16, -20, 3]}), 'shape is not'),
        (broken(image={**encode_array(IMAGE), 'shape': [True, 20, 3]}), 'shape is not'),
        (broken(image={**encode_array(IMAGE), 'shape': [2**40, 2**40, 3]}), 'got 960 bytes'),
        (broken(image={**encode_array(IMAGE), '__numpy__': '!'}), 'not base64'),
        (broken(image={**encode_array(IMAGE), '__numpy__': 3}), 'not base64'),
        (
            broken(image=encode_array(IMAGE[..., 0, 0])),
            r'got uint8\[16\], expected uint8\[H, W, 3\]',
        ),
        (broken(image=encode_array(np.zeros((16, 20, 5), np.uint8))), r'got uint8\[16, 20, 5\]'),
        (broken(image=encode_array(np.zeros((8, 20), np.uint8))), 'pixels, expected sides'),
        (broken(image=encode_array(IMAGE[:3])), 'pixels, expected sides'),
    ],
)
def test_a_request_that_is_not_one_gets_one_sentence(body, message):
    with pytest.raises(ProtocolError, match=message) as refusal:
        parse_request(body)
    assert '\n' not in str(refusal.value)
    assert len(str(refusal.value)) < 250


@pytest.mark.parametrize(
    ('body', 'message'),
    [
        (b'"error"', 'the server answered "error"'),
        (b'"{"', 'is not JSON'),
        (b'null', 'expected an array'),
        (b'[0, 0, 0, 0, 0, 0, 0]', 'expected an array'),
        (json.dumps([encode_array(np.zeros(7))] * 8).encode(), '8 arrays.*server of OpenVLA-OFT'),
        (b' ' * 70_000, 'bytes, expected'),
        (b'{"__numpy__": NaN}', 'is not JSON'),
        (json.dumps(encode_array(np.full(7, np.nan))).encode(), 'expected finite'),
        (json.dumps(encode_array(np.zeros((1, 7)))).encode(), r'got shape \[1, 7\]'),
        (json.dumps(encode_array(np.zeros(65))).encode(), r'got shape \[65\]'),
    ],
)
def test_a_reply_that_is_not_an_action_is_refused(body, message):
    with pytest.raises(ProtocolError, match=message):
        parse_reply(body)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_an_action_or_a_refusal(body):
    for parse in (parse_request, parse_reply):
        with contextlib.suppress(ProtocolError):
            parse(body)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
                    max_leaves=10))  # fmt: skip
def test_any_json_is_an_array_or_a_refusal(content):
    with pytest.raises(ProtocolError):
        decode_array(content, 'field', ('|u1',))
