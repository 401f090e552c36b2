"""Run the inference server: ``python -m openvla_ros.serving --model PATH``."""

if __name__ == '__main__':  # before what takes long to import
    from openvla_ros.core.early_exit import exit_at_signals

    exit_at_signals()

import argparse
import ipaddress
import logging
import socket
import sys
from collections.abc import Mapping, Sequence

import torch
import uvicorn

from openvla_ros.action_space.dataset_profile import (
    PLAUSIBLE_STEP_M,
    PLAUSIBLE_STEP_RAD,
    check_step_envelope,
    find_dataset_profile,
)
from openvla_ros.action_space.normalization import ActionStats, UnnormKeyError, resolve_unnorm_key
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model.checkpoint import CheckpointError
from openvla_ros.model.hub import checkpoint_folder
from openvla_ros.model.local_backend import LocalBackend, norm_stats_of
from openvla_ros.model.self_test import SelfTestError
from openvla_ros.policy.inference import GRAPH_MODES, InferenceBackend
from openvla_ros.serving.app import create_app

_LOG = logging.getLogger('openvla_ros.serving')


class Backends:
    """One network in memory, un-normalising with any of its checkpoint's statistics."""

    def __init__(
        self,
        first: LocalBackend,
        default_key: str | None,
        refused: Mapping[str, str] | None = None,
    ) -> None:
        """Start from a loaded backend.

        Args:
            first: The backend that loaded the network.
            default_key: Used for requests that name none; None refuses them where there are
                several.
            refused: Keys whose statistics must not be used, and the sentence that says why.
        """
        self._first = first
        self._default_key = default_key
        self._refused = dict(refused or {})
        self._by_key: dict[str, LocalBackend] = {first.unnorm_key: first}

    def of_key(self, unnorm_key: str | None) -> InferenceBackend:
        """Return the backend of a key (or of the default); raises UnnormKeyError."""
        norm_stats = self._first.norm_stats or {}
        key = resolve_unnorm_key(norm_stats, unnorm_key or self._default_key)
        if key in self._refused:
            raise UnnormKeyError(self._refused[key])
        if key not in self._by_key:
            self._by_key[key] = LocalBackend(self._first.model, norm_stats, key)
        return self._by_key[key]


def main(args: Sequence[str] | None = None) -> int:
    """Load, test, warm up, then serve until SIGINT or SIGTERM; 2 for what cannot be used."""
    options = _parser().parse_args(args)
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(name)s: %(message)s')
    try:
        backend = _load(options)
        refused = implausible_statistics(
            backend.norm_stats or {},
            options.dataset_directory,
            options.plausible_step_m,
            options.plausible_step_rad,
        )
        _report_refused(refused, backend, options.unnorm_key)
        backend.warm_up()
    except (ConfigError, CheckpointError, UnnormKeyError, SelfTestError) as error:
        print(f'openvla_ros.serving: {error}', file=sys.stderr)
        return 2
    backends = Backends(backend, options.unnorm_key, refused)
    app = create_app(
        backends.of_key, backend.norm_stats or {}, backend.description, backend.image_size
    )
    if not _is_loopback(options.host):
        _LOG.warning(
            'listening on %s: everybody who reaches this address may ask, there is no password',
            options.host,
        )
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        log_level='warning',
        limit_concurrency=32,
        timeout_graceful_shutdown=5,
    )
    _Server(config, f'{backend.description} at http://{options.host}:{options.port}/act').run()
    return 0


def implausible_statistics(
    norm_stats: Mapping[str, ActionStats],
    dataset_directory: str | None,
    plausible_step_m: float,
    plausible_step_rad: float,
) -> dict[str, str]:
    """Judge the reach of a step as policy_node does, for every key with a dataset profile.

    Returns:
        By key, the sentence for statistics that must not be used.
    """
    refused = {}
    for key, stats in norm_stats.items():
        profile = find_dataset_profile(key, dataset_directory)
        if profile is None:
            continue  # its units are unknown; policy_node has no profile for it either
        try:
            check_step_envelope(
                stats,
                profile,
                plausible_step_m=plausible_step_m,
                plausible_step_rad=plausible_step_rad,
            )
        except ConfigError as error:
            refused[key] = str(error)
    return refused


def _report_refused(
    refused: Mapping[str, str], backend: LocalBackend, default_key: str | None
) -> None:
    """Refuse to serve nothing but such statistics; else say what requests for them will get.

    Raises:
        ConfigError: the key that requests without one get is among them.
    """
    keys = list(backend.norm_stats or {})
    if default_key or len(keys) == 1:
        default = resolve_unnorm_key(keys, default_key)
        if default in refused:
            raise ConfigError(refused[default])
    for sentence in refused.values():
        _LOG.warning('requests for these statistics are refused: %s', sentence)


class _Server(uvicorn.Server):
    """Says that it is ready when it listens, and not before: the port may be taken."""

    def __init__(self, config: uvicorn.Config, description: str) -> None:
        super().__init__(config)
        self._description = description

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            _LOG.info('ready: %s', self._description)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m openvla_ros.serving',
        description="Serve a checkpoint over OpenVLA's /act protocol (and /predict, /health).",
    )
    add = parser.add_argument
    add('--model', required=True, help='checkpoint folder or hub id')
    add(
        '--unnorm-key',
        help='statistics for requests that name none; without it such requests are refused where '
        'the checkpoint has several',
    )
    add('--dataset-directory', help="folder of dataset profiles (default: the package's own)")
    add(
        '--plausible-step-m',
        type=float,
        default=PLAUSIBLE_STEP_M,
        help='largest displacement [m] of one step that statistics may allow (default: '
        f'{PLAUSIBLE_STEP_M})',
    )
    add(
        '--plausible-step-rad',
        type=float,
        default=PLAUSIBLE_STEP_RAD,
        help='largest rotation [rad] of one step that statistics may allow (default: '
        f'{PLAUSIBLE_STEP_RAD})',
    )
    add('--host', default='127.0.0.1', help='address to listen on (default: this machine only)')
    add('--port', type=int, default=8000, help='TCP port (default: 8000)')
    add(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help="torch device (default: 'cuda' if there is one)",
    )
    add(
        '--dtype',
        choices=('bfloat16', 'float32'),
        help="of the parameters (default: the checkpoint's)",
    )
    add('--quantization', choices=('nf4', 'int8'), help='quantise the language model')
    add(
        '--cuda-graphs',
        choices=GRAPH_MODES,
        default='auto',
        help='run the network as CUDA graphs (default: on a CUDA device, if they give the same '
        'tokens)',
    )
    add('--adapter', help='LoRA adapter folder')
    add('--allow-download', action='store_true', help='fetch a hub id that is not in the cache')
    return parser


def _load(options: argparse.Namespace) -> LocalBackend:
    folder = checkpoint_folder(options.model, allow_download=options.allow_download)
    # Every request says which statistics it wants; to load the network any of them will do.
    any_key = next(iter(norm_stats_of(folder, options.adapter)), None)
    return LocalBackend.load(
        folder,
        options.unnorm_key or any_key,
        dtype=getattr(torch, options.dtype) if options.dtype else None,
        device=options.device,
        quantization=options.quantization,
        cuda_graphs=options.cuda_graphs,
        adapter=options.adapter,
        # The client measures the rate and refuses to drive a robot with a slow server.
        allow_slow=True,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'


if __name__ == '__main__':
    sys.exit(main())
