#!/usr/bin/env bash
# Fills a folder with Python, NumPy and LiteRT for 64-bit Arm, which qemu-aarch64-static can run on
# another processor. Python comes from the Debian or Ubuntu archive that apt-get is configured for,
# and the packages from PyPI. Nothing is installed into the system.
#
#     tests/arm/prepare.sh FOLDER PIP
#
# The version of LiteRT is that of PIP's own environment.
set -euo pipefail
folder=$(realpath -m "$1") pip=$2
litert=$("$pip" show ai-edge-litert | sed -n 's/^Version: //p')
[[ -e $folder/ready && $(< "$folder/ready") == "$litert" ]] && exit
for program in qemu-aarch64-static apt-get dpkg-deb; do
    command -v "$program" > /dev/null || { echo "no $program on this machine" >&2; exit 77; }
done
rm -rf "$folder"
mkdir -p "$folder"/{root,packages,apt/state/lists/partial,apt/cache/archives/partial}
touch "$folder/apt/status"
sources=()
if grep -q '^ID=ubuntu' /etc/os-release; then # whose usual servers have no packages for Arm
    . /etc/os-release
    echo "deb http://ports.ubuntu.com/ubuntu-ports $VERSION_CODENAME main universe" \
        > "$folder/apt/ports.list"
    sources=(-o Dir::Etc::sourcelist="$folder/apt/ports.list" -o Dir::Etc::sourceparts=-)
fi
arm() {
    apt-get -qq "${sources[@]}" -o APT::Architecture=arm64 -o APT::Architectures=arm64 \
        -o APT::Sandbox::User="$(id -un)" -o Dir::State="$folder/apt/state" \
        -o Dir::State::status="$folder/apt/status" -o Dir::Cache="$folder/apt/cache" "$@"
}
arm update
arm install --download-only --yes --no-install-recommends python3 libstdc++6 > /dev/null
for package in "$folder"/apt/cache/archives/*.deb; do
    dpkg-deb --extract "$package" "$folder/root"
done
version=$(basename "$(readlink "$folder/root/usr/bin/python3")")
"$pip" install --quiet --no-warn-conflicts --no-compile \
    --target="$folder/packages" --only-binary=:all: \
    --python-version="${version#python}" --implementation=cp \
    --platform=manylinux_2_28_aarch64 --platform=manylinux_2_27_aarch64 \
    --platform=manylinux2014_aarch64 "ai-edge-litert==$litert" numpy
# LiteRT reads the processor from this file. QEMU opens files of this folder first, and the host's own
# /proc/cpuinfo describes another processor, with which LiteRT crashes.
mkdir -p "$folder/root/proc"
for processor in 0 1; do
    printf 'processor\t: %s\nCPU implementer\t: 0x41\nCPU architecture: 8\n' "$processor"
    printf 'CPU variant\t: 0x1\nCPU part\t: 0xd0b\nCPU revision\t: 0\n\n'
done > "$folder/root/proc/cpuinfo"
rm -rf "$folder/apt"
echo "$litert" > "$folder/ready"
