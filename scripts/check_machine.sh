#!/bin/sh
# Say in one sentence what this machine lacks, or print the Python to set up with. POSIX sh: it runs before all else.
# PYTHON=... chooses the interpreter.

refuse() {
  echo "openvla_ros: $1" >&2
  exit 1
}

system=$(uname -s 2>/dev/null) machine=$(uname -m 2>/dev/null)
[ "$system" = Linux ] && [ "$machine" = x86_64 ] ||
  refuse "this is ${system:-an unknown system} on ${machine:-an unknown processor}; the ROS 2 wheels are made for Linux x86_64 only."

glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null) ||
  refuse "this Linux has no glibc (musl?); the ROS 2 wheels need glibc 2.28 or newer."
glibc=${glibc#glibc }
minor=${glibc#*.}
[ "${glibc%%.*}" -eq 2 ] && [ "${minor%%.*}" -ge 28 ] ||
  refuse "this machine has glibc $glibc; the ROS 2 wheels need 2.28 or newer."

for tool in cc c++; do
  command -v $tool >/dev/null 2>&1 || refuse \
    "no C/C++ compiler ($tool) was found; install one (Debian and Ubuntu: apt install build-essential; Fedora: dnf install gcc-c++)."
done
for tool in bash make; do
  command -v $tool >/dev/null 2>&1 || refuse "$tool was not found; install it (Debian and Ubuntu: apt install $tool)."
done

supported='import sys, sysconfig
sys.exit(not (sys.implementation.name == "cpython" and (3, 10) <= sys.version_info < (3, 15)
              and not sysconfig.get_config_var("Py_GIL_DISABLED")))'
for python in ${PYTHON:-python3 python3.12 python3.11 python3.13 python3.10 python3.14}; do
  # A pyenv shim may exist for a version that is not there: only running it tells.
  if "$python" -c "$supported" >/dev/null 2>&1; then
    command -v "$python"
    exit 0
  fi
done
if [ -n "${PYTHON:-}" ]; then
  refuse "PYTHON=$PYTHON is not a CPython 3.10 to 3.14 that runs; name one that is."
fi
found=$(python3 --version 2>&1) || found="no python3"
refuse "no CPython 3.10 to 3.14 was found ($found); install one, or name it: make PYTHON=/path/to/python3."
