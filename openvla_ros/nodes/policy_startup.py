"""From parameters to a policy that may act: load, warm up, check statistics and rate."""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from openvla_ros.core.dataset_profile import DatasetProfile, step_envelope
from openvla_ros.core.inference import BackendUnavailable, InferenceBackend
from openvla_ros.core.normalization import UnnormKeyError, resolve_unnorm_key
from openvla_ros.core.policy import Policy
from openvla_ros.core.rate_check import measure_durations_s, rate_kept_hz
from openvla_ros.core.refusal import Refusal
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.nodes.inference_worker import StartRefused
from openvla_ros.nodes.policy_parameters import PolicyParameters

LoadBackend = Callable[[PolicyParameters], InferenceBackend]
"""Makes the backend, in the worker's thread. ``policy_node.main`` takes another one for tests."""

Report = Callable[[Refusal], None]
_RETRY_S = 1.0
_SWITCH_INTERVAL_S = 2e-4


def load_backend(parameters: PolicyParameters) -> InferenceBackend:
    """Make the backend the parameters ask for: in this process, or a server.

    Raises:
        ConfigError: neither or both are asked for, or the checkpoint cannot be used.
        ImportError: torch and its companions are not installed for this Python.
    """
    if bool(parameters.checkpoint) == bool(parameters.server_url):
        raise ConfigError(
            'checkpoint and server_url: expected exactly one of them; set checkpoint to a folder '
            'for inference in this process, or server_url for inference on a server'
        )
    # Imported only when chosen: with a server this Python needs no torch, without one no httpx.
    if parameters.server_url:
        from openvla_ros.remote.backend import RemoteBackend

        return RemoteBackend(
            parameters.server_url, parameters.unnorm_key, timeout_s=parameters.server_timeout_s
        )
    _check_folder(parameters.checkpoint)
    from openvla_ros.model.local_backend import LocalBackend

    return LocalBackend.load(
        parameters.checkpoint,
        parameters.unnorm_key,
        dtype=parameters.dtype,
        device=parameters.device,
        quantization=parameters.quantization,
        cuda_graphs=parameters.cuda_graphs,
        adapter=str(Path(parameters.adapter).expanduser()) if parameters.adapter else None,
        revision=parameters.revision or None,
        allow_download=parameters.allow_download,
        allow_slow=parameters.allow_slow,
    )


def start_policy(
    parameters: PolicyParameters,
    profile: DatasetProfile,
    policy_rate_hz: float,
    load: LoadBackend,
    report: Report,
    closing: threading.Event,
) -> Policy:
    """Make a policy that may act; runs in the worker's thread.

    Args:
        parameters: The node's.
        profile: Conventions of the dataset.
        policy_rate_hz: The rate it must keep.
        load: Makes the backend.
        report: Told what is going on.
        closing: Set when the node ends.

    Raises:
        StartRefused: it cannot be made or must not act.
    """
    what = parameters.server_url or parameters.checkpoint
    report(Refusal('LOADING', f'loading {what}'))
    try:
        backend = load(parameters)
        _set_threads(parameters.num_threads)
        _wait_until_warm(backend, report, closing)
        check_statistics(backend, profile, parameters)
        policy = Policy(backend, profile)
        report(Refusal('WARMING_UP', f'{backend.description}: measuring ten actions'))
        kept_hz = rate_kept_hz(measure_durations_s(policy))
    except StartRefused:
        raise
    except ImportError as error:
        raise StartRefused(
            'NOT_INSTALLED',
            f'{" ".join(str(error).split())[:200]}; install what inference in this process needs '
            '(requirements), or set server_url',
            2,
        ) from error
    except BackendUnavailable as error:
        raise StartRefused('SERVER_UNAVAILABLE', str(error), 3) from error
    except (ConfigError, UnnormKeyError, ValueError, OSError) as error:
        raise StartRefused('MODEL_REFUSED', ' '.join(str(error).split()), 2) from error
    check_rate(kept_hz, policy_rate_hz, parameters.allow_slow)
    return policy


def check_statistics(
    backend: InferenceBackend, profile: DatasetProfile, parameters: PolicyParameters
) -> None:
    """Refuse statistics whose actions would be implausibly large for an arm.

    A wrong key or a wrong unit is a factor of 20 to 35; it shows here before anything moves.

    Raises:
        ConfigError: they are, or they are not of seven-number actions.
        UnnormKeyError: the backend has no statistics of this dataset.
    """
    if backend.norm_stats is None:
        return
    key = resolve_unnorm_key(backend.norm_stats, parameters.unnorm_key)
    metres, radians = step_envelope(backend.norm_stats[key], profile)
    if metres > parameters.plausible_step_m or radians > parameters.plausible_step_rad:
        raise ConfigError(
            f'the statistics of {key} allow {metres:.3f} m and {radians:.3f} rad in one step, '
            f'plausible are {parameters.plausible_step_m:g} m and '
            f'{parameters.plausible_step_rad:g} rad: a wrong key or a wrong unit; if it is right, '
            'raise plausible_step_m and plausible_step_rad'
        )


def check_rate(kept_hz: float, policy_rate_hz: float, allow_slow: bool) -> None:
    """Refuse a model that cannot keep the rate it was trained for.

    Raises:
        StartRefused: it cannot, and that was not allowed.
    """
    if kept_hz >= policy_rate_hz or allow_slow:
        return
    raise StartRefused(
        'TOO_SLOW',
        f'the model keeps {kept_hz:.2f} Hz here, {policy_rate_hz:.2f} Hz are needed; nothing is '
        'published. Use a faster device, a smaller quantization or a server, or set allow_slow '
        '(the arm will stop and go)',
        None,
    )


def _check_folder(checkpoint: str) -> None:
    """Refuse a mistyped path at once, not after the seconds that importing torch takes."""
    if checkpoint.startswith(('/', '.', '~')) and not Path(checkpoint).expanduser().is_dir():
        raise ConfigError(
            f'checkpoint: {checkpoint!r} is not a folder; expected one with config.json, '
            'preprocessor_config.json, tokenizer.json and *.safetensors'
        )


def _wait_until_warm(backend: InferenceBackend, report: Report, closing: threading.Event) -> None:
    """Warm the backend up; a server that is not there yet is waited for."""
    report(Refusal('WARMING_UP', f'{backend.description}: self-test and first action'))
    while True:
        try:
            backend.warm_up()
            return
        except BackendUnavailable as error:
            report(Refusal('SERVER_UNAVAILABLE', f'{error}; trying again'))
            if closing.wait(_RETRY_S):
                raise StartRefused('CLOSING', 'ended before the server answered', None) from error


def _set_threads(num_threads: int) -> None:
    """Give the model its CPU threads; torch counts them per thread, so this one must ask."""
    torch = sys.modules.get('torch')
    if torch is not None:
        torch.set_num_threads(num_threads or max(1, (os.cpu_count() or 2) - 1))
        # An eager network hands Python's lock to the executor between two of its thousands of
        # small operations, and gets it back only after this interval.
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
