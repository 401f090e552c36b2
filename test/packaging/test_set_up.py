"""The parts of `make setup` that can be seen without installing anything."""

import importlib.util
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOW = 'import set_up; print(set_up.DISTRO, set_up.VENV.name)'


@pytest.fixture(scope='module')
def set_up():
    spec = importlib.util.spec_from_file_location('set_up', ROOT / 'scripts' / 'set_up.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _install(site: Path, name: str) -> Path:
    """Lay out a package as pip does, RECORD last."""
    (site / name).mkdir()
    (site / name / '__init__.py').write_text('x = 1\n')
    info = site / f'{name}-1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text(f'Name: {name}\n')
    (info / 'RECORD').write_text(
        f'{name}/__init__.py,sha256=0,6\n{name}/__pycache__/__init__.cpython-311.pyc,,\n'
        f'{info.name}/METADATA,,\n{info.name}/RECORD,,\n'
    )
    return info


def test_a_whole_installation_is_left_alone(set_up, tmp_path):
    info = _install(tmp_path, 'whole')
    assert set_up.forget_half_installed(tmp_path) == []
    assert info.is_dir()


@pytest.mark.parametrize('damage', ['no record', 'file missing', 'file cut off'])
def test_an_installation_that_was_cut_off_is_forgotten(set_up, tmp_path, damage):
    whole, cut = _install(tmp_path, 'whole'), _install(tmp_path, 'cut')
    if damage == 'no record':
        (cut / 'RECORD').unlink()
    elif damage == 'file missing':
        (tmp_path / 'cut' / '__init__.py').unlink()
    else:
        (tmp_path / 'cut' / '__init__.py').write_text('x')
    assert set_up.forget_half_installed(tmp_path) == ['cut-1.0.dist-info']
    assert whole.is_dir()
    assert not cut.exists()


def test_a_distribution_without_wheels_is_refused_and_a_sourced_installation_does_not_decide():
    def distro(**environment):
        return subprocess.run(
            [sys.executable, '-c', SHOW],
            cwd=ROOT / 'scripts',
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert distro(OPENVLA_ROS_DISTRO='', ROS_DISTRO='humble').stdout.split() == ['jazzy', '.venv']
    kilted = distro(OPENVLA_ROS_DISTRO='kilted', ROS_DISTRO='jazzy')
    assert kilted.stdout.split() == ['kilted', '.venv-kilted']
    refused = subprocess.run(
        [sys.executable, str(ROOT / 'scripts' / 'set_up.py')],
        env={**os.environ, 'OPENVLA_ROS_DISTRO': 'humble'},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert refused.returncode == 1
    assert "'humble', expected jazzy or kilted" in refused.stderr


def test_what_pip_put_aside_while_replacing_a_package_is_removed(set_up, tmp_path):
    (tmp_path / '~umpy').mkdir()
    set_up.forget_half_installed(tmp_path)
    assert not (tmp_path / '~umpy').exists()


def test_the_builders_python_is_replaced_in_exported_cmake_targets(set_up, tmp_path):
    folder = tmp_path / 'share' / 'std_msgs' / 'cmake'
    folder.mkdir(parents=True)
    target = folder / 'export.cmake'
    target.write_text(
        'INTERFACE_INCLUDE_DIRECTORIES "/opt/python/cp312-cp312/include/python3.12;'
        '/opt/python/cp312-cp312/lib/python3.12/site-packages/numpy/_core/include"\n'
    )
    untouched = folder / 'other.cmake'
    untouched.write_text('set(x "/opt/pythonic")\n')
    assert set_up.mend_cmake_files(tmp_path, '/usr/include/python3.12', '/venv/numpy') == 1
    assert target.read_text() == (
        'INTERFACE_INCLUDE_DIRECTORIES "/usr/include/python3.12;/venv/numpy"\n'
    )
    assert untouched.read_text() == 'set(x "/opt/pythonic")\n'
    assert set_up.mend_cmake_files(tmp_path, '/usr/include/python3.12', '/venv/numpy') == 0


@pytest.fixture
def machine(tmp_path):
    """Run check_machine.sh with some commands replaced, or hidden (None)."""

    def check(python: str = sys.executable, **commands: str | None):
        tools = {'uname', 'getconf', 'cc', 'c++', 'bash', 'make', 'python3'}
        for tool in tools:
            if tool in commands and commands[tool] is None:
                continue
            script = tmp_path / tool
            body = (
                commands.get(tool)
                or f'exec "$(PATH={os.defpath}:/usr/local/bin command -v {tool})" "$@"'
            )
            script.write_text(f'#!/bin/sh\n{body}\n')
            script.chmod(script.stat().st_mode | stat.S_IXUSR)
        return subprocess.run(
            ['/bin/sh', str(ROOT / 'scripts' / 'check_machine.sh')],
            env={'PATH': str(tmp_path), 'PYTHON': python},
            capture_output=True,
            text=True,
            timeout=30,
        )

    return check


def test_this_machine_is_fit(machine):
    checked = machine()
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.strip() == sys.executable


@pytest.mark.parametrize(
    ('commands', 'words'),
    [
        ({'uname': 'if [ "$1" = -s ]; then echo Darwin; else echo arm64; fi'}, 'Darwin on arm64'),
        ({'uname': 'if [ "$1" = -s ]; then echo Linux; else echo aarch64; fi'}, 'aarch64'),
        ({'getconf': 'exit 1'}, 'no glibc'),
        ({'getconf': 'echo glibc 2.27'}, 'glibc 2.27'),
        ({'c++': None}, 'build-essential'),
        ({'make': None}, 'make was not found'),
        ({'python': '/nowhere/python3'}, 'PYTHON=/nowhere/python3'),
    ],
)
def test_an_unfit_machine_gets_one_sentence(machine, commands, words):
    checked = machine(**commands)
    assert checked.returncode != 0
    assert words in checked.stderr
    assert len(checked.stderr.strip().splitlines()) == 1
    assert checked.stdout == ''


def test_requirements_are_pinned_and_say_why():
    for path in (ROOT / 'requirements').glob('*.txt'):
        for line in path.read_text().splitlines():
            if not line or line.startswith(('#', '-')):
                continue
            pinned_in = re.search(r'; pinned in (\w+\.txt)$', line)
            if pinned_in:
                others = (path.parent / pinned_in[1]).read_text()
                assert f'-c {pinned_in[1]}' in path.read_text().splitlines()
                assert f'\n{line.split()[0]}==' in others, f'{path.name}: {line}'
            else:
                assert '==' in line, f'{path.name}: {line}'
            if not path.name.startswith('constraints') and 'python_version <' not in line:
                assert '  # ' in line, f'{path.name}: {line}'


@pytest.mark.parametrize('root', [True, False])
def test_a_missing_opengl_is_installed_as_root_and_named_otherwise(
    set_up, tmp_path, monkeypatch, root
):
    apt = tmp_path / 'apt-get'
    apt.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    apt.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr(set_up.os, 'geteuid', lambda: 0 if root else 1000)
    asked = tmp_path / 'asked'
    monkeypatch.setattr(set_up, '_can_render', lambda backend: backend == 'egl' and asked.exists())
    if root:
        set_up.ensure_offscreen_opengl()
        assert 'libegl1 libopengl0 libgl1-mesa-dri' in asked.read_text()
    else:
        with pytest.raises(
            set_up.SetUpError, match='apt install libegl1 libopengl0 libgl1-mesa-dri'
        ):
            set_up.ensure_offscreen_opengl()
        assert not asked.exists()


def test_sourcing_the_environment_twice_changes_nothing_more():
    code = (
        'source scripts/env.sh; a=$(env | sort); source scripts/env.sh; [ "$a" = "$(env | sort)" ]'
    )
    ran = subprocess.run(['bash', '-eu', '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_the_environment_replaces_another_ros_installation():
    code = 'source scripts/env.sh; echo "$AMENT_PREFIX_PATH $PYTHONPATH $CMAKE_PREFIX_PATH"'
    other = dict.fromkeys(('AMENT_PREFIX_PATH', 'PYTHONPATH'), '/opt/ros/jazzy')
    ran = subprocess.run(
        ['bash', '-eu', '-c', code],
        cwd=ROOT,
        env={**os.environ, **other},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert '/opt/ros' not in ran.stdout
