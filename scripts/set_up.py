"""Set up everything the package needs on a machine without ROS: `make setup` runs this first.

Makes a virtual environment from the pinned requirements (.venv with ROS 2 Jazzy, .venv-kilted
with Kilted), mends the ROS wheels' CMake files and sees that offscreen OpenGL works. A stamp in
the venv says that all this is done for these requirements; without it every step is checked and
mended: a set-up killed anywhere is finished by another.
Standard library only: it runs before the venv exists.
"""

import argparse
import contextlib
import csv
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DISTROS = ('jazzy', 'kilted')
# Not ROS_DISTRO: a sourced ROS installation sets that, and must not decide which wheels are used.
DISTRO = os.environ.get('OPENVLA_ROS_DISTRO') or DISTROS[0]
VENV = ROOT / ('.venv' if DISTROS[0] == DISTRO else f'.venv-{DISTRO}')
PYTHON = VENV / 'bin' / 'python'
STAMP = VENV / 'openvla_ros_set_up.txt'
REQUIREMENTS = ROOT / 'requirements'
LEAST_FREE_GB = 4.0
APT_TIMEOUT_S = 300.0
EGL_PACKAGES = ('libegl1', 'libopengl0', 'libgl1-mesa-dri')

# The ROS wheels start Python twice to set LD_LIBRARY_PATH; nothing run from here needs it.
CLEAN_ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if k not in ('PYTHONHOME', 'PYTHONPATH', 'PIP_USER')},
    '_ROS_WHEELS_BOOTSTRAP_COMPLETE': '1',
}


class SetUpError(Exception):
    """One sentence for the user: what is missing and what to do."""


def main() -> int:
    """Run the steps that are not done yet; 0 when all is set up."""
    arguments = _arguments()
    if DISTRO not in DISTROS:
        print(
            f'openvla_ros: DISTRO is {DISTRO!r}, expected {" or ".join(DISTROS)}: ROS 2 is on '
            'PyPI in these distributions; leave DISTRO out for the first',
            file=sys.stderr,
        )
        return 1
    lock = os.open(ROOT, os.O_RDONLY)  # flock on the folder itself leaves no lock file behind
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print('another set-up of this folder is running; waiting for it', flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        version = '.'.join(map(str, sys.version_info[:2])) if arguments.python_was_named else ''
        if STAMP.is_file() and STAMP.read_text() == _fingerprint() and _is_version(version):
            return 0
        STAMP.unlink(missing_ok=True)
        _say(1, 'virtual environment')
        make_venv(version)
        _say(2, 'packages (the first time several minutes: torch, transformers, ROS 2, MuJoCo)')
        forget_half_installed(Path(_ask_venv('sysconfig.get_path("purelib")')))
        install_packages(arguments.pip_args)
        _say(3, "CMake files of the ROS wheels: the paths of this machine's Python")
        mend_cmake_files(VENV, *_python_include_folders())
        _say(4, 'offscreen OpenGL for the simulated camera')
        ensure_offscreen_opengl()
        STAMP.write_text(_fingerprint())
        print(f'set up: {VENV}', flush=True)
        return 0
    except SetUpError as error:
        print(f'openvla_ros: {error}', file=sys.stderr)
        return 1
    finally:
        os.close(lock)


def make_venv(version: str) -> None:
    """Create the venv; anew where what is there cannot be used (moved, broken, another Python).

    Args:
        version: The Python version it must have, such as '3.12'; any supported one if empty.
    """
    if VENV.exists() and not (_is_version(version) and _venv_works()):
        print(f'{VENV} is half-made, was moved, or has another Python than wanted; making it anew')
        shutil.rmtree(VENV)
    if VENV.exists():
        return
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if free_gb < LEAST_FREE_GB:
        raise SetUpError(
            f'{ROOT} has {free_gb:.1f} GB free, the set-up needs at least {LEAST_FREE_GB:g} GB; '
            'free some space'
        )
    made = subprocess.run([sys.executable, '-m', 'venv', str(VENV)], env=CLEAN_ENVIRONMENT)
    if made.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        version = f'python{sys.version_info.major}.{sys.version_info.minor}'
        raise SetUpError(
            f'{sys.executable} cannot make virtual environments; install its venv module '
            f'(Debian and Ubuntu: apt install {version}-venv)'
        )


def forget_half_installed(site_packages: Path) -> list[str]:
    """Make pip see packages whose installation was cut off as not installed.

    pip writes RECORD last; a dist-info without it, or one that lists files that are missing or of
    another size, is of an installation that was killed.

    Returns:
        Names of the dist-info folders removed.
    """
    for leftover in site_packages.glob('~*'):  # pip's backups of what it was replacing
        shutil.rmtree(leftover, ignore_errors=True)
    removed = []
    for info in sorted(site_packages.glob('*.dist-info')):
        if not _is_whole(info):
            shutil.rmtree(info)
            removed.append(info.name)
    if removed:
        print('installed only in part, will be installed again: ' + ', '.join(removed))
    return removed


def install_packages(pip_args: str) -> None:
    """Install the pinned requirements; does nothing for those already there."""
    command = [
        str(PYTHON),
        '-m',
        'pip',
        'install',
        '--disable-pip-version-check',
        '--prefer-binary',
    ]
    command += [*pip_args.split()]
    for name in ('all', f'ros-{DISTRO}'):
        command += ['-r', str(REQUIREMENTS / f'{name}.txt')]
    with subprocess.Popen(
        command, env=CLEAN_ENVIRONMENT, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            if not line.startswith(('Requirement already satisfied', 'Ignoring ', 'Looking in ')):
                print(line, end='', flush=True)
    if pip.returncode != 0:
        raise SetUpError(
            'pip could not install the requirements (its own message is above); when the cause is '
            'removed, run the same make command again: it goes on where it stopped'
        )


def mend_cmake_files(prefix: Path, python_include: str, numpy_include: str) -> int:
    """Replace the builder's Python by ours in the CMake targets the ROS wheels export.

    Returns:
        How many files were changed.
    """
    numpy_path = re.compile(r'/opt/python/cp[^/";]+/lib/python[^/";]+/site-packages/numpy/[^";]*')
    include_path = re.compile(r'/opt/python/cp[^/";]+/include/python[^/";]+')
    changed = 0
    for path in [*prefix.glob('share/*/cmake/*.cmake'), *prefix.glob('lib/cmake/**/*.cmake')]:
        text = path.read_text(encoding='utf-8', errors='surrogateescape')
        if '/opt/python/' not in text:
            continue
        text = include_path.sub(python_include, numpy_path.sub(numpy_include, text))
        part = path.with_suffix('.part')
        part.write_text(text, encoding='utf-8', errors='surrogateescape')
        part.replace(path)
        changed += 1
    return changed


def ensure_offscreen_opengl() -> None:
    """See that MuJoCo can render here, by doing it; install Mesa's EGL with apt where possible."""
    if _can_render('egl') or _can_render('osmesa'):
        return
    packages = ' '.join(EGL_PACKAGES)
    if os.geteuid() == 0 and shutil.which('apt-get'):
        print(f'no offscreen OpenGL here; installing {packages} with apt')
        install = ('install', '-y', '-q', '--no-upgrade', '--no-install-recommends')
        for arguments in (('update', '-q'), (*install, *EGL_PACKAGES)):
            _apt_get(*arguments)
        if _can_render('egl'):
            return
    raise SetUpError(
        'no offscreen OpenGL: MuJoCo can create neither an EGL nor an OSMesa context; install it '
        f'(Debian and Ubuntu: apt install {packages}; '
        'Fedora: dnf install mesa-libEGL libglvnd-opengl mesa-dri-drivers) and run this again'
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--python-was-named',
        action='store_true',
        help='make the venv anew if it has another version of Python than the one running this',
    )
    parser.add_argument('--pip-args', default='', help='further options for pip install')
    return parser.parse_args()


def _say(step: int, what: str) -> None:
    print(f'[{step}/4] {what}', flush=True)


def _fingerprint() -> str:
    """What the stamp holds: the requirements, this script, the venv's place and its Python."""
    digest = hashlib.sha256()
    others = {f'{kind}-{d}.txt' for kind in ('ros', 'constraints') for d in DISTROS if d != DISTRO}
    paths = [path for path in sorted(REQUIREMENTS.glob('*.txt')) if path.name not in others]
    for path in [*paths, Path(__file__)]:
        digest.update(path.name.encode() + b'\0' + path.read_bytes() + b'\0')
    try:
        python = (VENV / 'pyvenv.cfg').read_text()
    except OSError:
        python = ''
    digest.update(f'{VENV}\0{python}\0{PYTHON.exists()}'.encode())
    return digest.hexdigest() + '\n'


def _venv_works() -> bool:
    """Tell whether the venv's Python runs, is supported, lies where it was made, and has pip."""
    check = (
        'import os, sys, pip; '
        f'assert os.path.samefile(sys.prefix, {str(VENV)!r}); '
        'assert (3, 10) <= sys.version_info < (3, 15)'
    )
    try:
        ran = subprocess.run(
            [str(PYTHON), '-c', check], env=CLEAN_ENVIRONMENT, capture_output=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ran.returncode == 0


def _is_version(version: str) -> bool:
    try:
        config = (VENV / 'pyvenv.cfg').read_text()
    except OSError:
        return False
    return (
        not version or re.search(rf'^version = {re.escape(version)}\.', config, re.M) is not None
    )


def _is_whole(info: Path) -> bool:
    record = info / 'RECORD'
    if not record.is_file():
        return False
    for path, size in _recorded(record):
        try:
            actual = (info.parent / path).stat().st_size
        except OSError:
            return False
        if size and int(size) != actual and not path.endswith('.cmake'):  # those are mended here
            return False
    return True


def _recorded(record: Path) -> Iterator[tuple[str, str]]:
    with record.open(newline='', encoding='utf-8') as lines:
        for row in csv.reader(lines):
            if len(row) == 3 and not row[0].endswith('.pyc'):
                yield row[0], row[2]


def _ask_venv(expression: str) -> str:
    code = f'import sys, sysconfig; print({expression})'
    return subprocess.run(
        [str(PYTHON), '-c', code],
        env=CLEAN_ENVIRONMENT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def _python_include_folders() -> tuple[str, str]:
    python_include = _ask_venv('sysconfig.get_path("include")')
    if not (Path(python_include) / 'Python.h').is_file():
        version = _ask_venv('f"{sys.version_info[0]}.{sys.version_info[1]}"')
        raise SetUpError(
            f'{python_include}/Python.h is missing, messages cannot be built; install the headers '
            f'(Debian and Ubuntu: apt install python{version}-dev; '
            'Fedora: dnf install python3-devel)'
        )
    return python_include, _ask_venv('__import__("numpy").get_include()')


def _apt_get(*arguments: str) -> None:
    """Run apt-get; whether it helped is seen afterwards."""
    environment = {**os.environ, 'DEBIAN_FRONTEND': 'noninteractive'}
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(['apt-get', *arguments], env=environment, timeout=APT_TIMEOUT_S)


def _can_render(backend: str) -> bool:
    code = (
        'import mujoco; m = mujoco.MjModel.from_xml_string("<mujoco><worldbody/></mujoco>"); '
        'r = mujoco.Renderer(m, 8, 8); r.update_scene(mujoco.MjData(m)); '
        'assert r.render().shape == (8, 8, 3)'
    )
    environment = {**CLEAN_ENVIRONMENT, 'MUJOCO_GL': backend}
    try:
        ran = subprocess.run(
            [str(PYTHON), '-c', code], env=environment, capture_output=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        return False
    return ran.returncode == 0


if __name__ == '__main__':
    sys.exit(main())
