"""Build messages and launchers with colcon: `make build` (in scripts/env.sh).

They go into install/ for ROS 2 Jazzy, install-kilted/ for Kilted.

Python and configuration files are linked, so only new files, messages and build files ask for
another build; a stamp written last tells a finished build from one that was cut off.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DISTRO = os.environ.get('OPENVLA_ROS_DISTRO', 'jazzy')
BUILD, INSTALL, LOG = (
    name if DISTRO == 'jazzy' else f'{name}-{DISTRO}' for name in ('build', 'install', 'log')
)
STAMP = ROOT / INSTALL / 'openvla_ros_built.txt'
BUILD_FILES = ('CMakeLists.txt', 'package.xml', 'setup.cfg', 'scripts/build.py')
INSTALLED_FOLDERS = ('openvla_ros', 'launch', 'config', 'checkpoints')
COLCON = (
    'colcon',
    '--log-level',
    'error',
    '--log-base',
    LOG,
    'build',
    '--build-base',
    BUILD,
    '--install-base',
    INSTALL,
    '--base-paths',
    '.',
    '--symlink-install',
)


def main() -> int:
    """Build if anything that asks for it changed; returns colcon's exit status."""
    lock = os.open(
        ROOT / 'scripts', os.O_RDONLY
    )  # two builds into one folder would spoil each other
    fcntl.flock(lock, fcntl.LOCK_EX)
    wanted = _fingerprint()
    if STAMP.is_file() and STAMP.read_text() == wanted:
        return 0
    print('building messages and launchers (half a minute)', flush=True)
    STAMP.unlink(missing_ok=True)
    if _colcon(quiet=True) != 0:
        # What an interrupted or a differently configured build left cannot always be built upon.
        print('the build failed; trying once more from nothing', flush=True)
        for folder in (BUILD, INSTALL):
            shutil.rmtree(ROOT / folder, ignore_errors=True)
        status = _colcon(quiet=False)
        if status != 0:
            print(
                'openvla_ros: colcon could not build the package; its messages are above',
                file=sys.stderr,
            )
            return status
    STAMP.write_text(wanted)
    return 0


def _colcon(*, quiet: bool) -> int:
    # The very interpreter that runs this: CMake would otherwise take the newest one it finds.
    cmake_args = [
        '--cmake-force-configure',
        '--cmake-args',
        '-DBUILD_TESTING=OFF',
        f'-DPython3_EXECUTABLE={sys.executable}',
    ]
    handlers = [] if quiet else ['--event-handlers', 'console_direct+']
    return subprocess.run([*COLCON, *handlers, *cmake_args], cwd=ROOT).returncode


def _fingerprint() -> str:
    digest = hashlib.sha256(f'{ROOT}\0{sys.executable}\0{sys.version}\0'.encode())
    interfaces = sorted([*ROOT.glob('msg/*.msg'), *ROOT.glob('srv/*.srv')])
    for path in [*(ROOT / name for name in BUILD_FILES), *interfaces]:
        digest.update(path.name.encode() + b'\0' + path.read_bytes() + b'\0')
    for folder in INSTALLED_FOLDERS:
        for path in sorted((ROOT / folder).rglob('*')):
            if path.is_file() and '__pycache__' not in path.parts:
                digest.update(str(path.relative_to(ROOT)).encode() + b'\0')
    return digest.hexdigest() + '\n'


if __name__ == '__main__':
    sys.exit(main())
