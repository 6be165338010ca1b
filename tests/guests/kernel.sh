#!/bin/bash
# Fetches Debian's newest kernel for virtual machines as FOLDER/{vmlinuz,release,lib/modules/RELEASE}: tests/guests/kernel.sh FOLDER
#
# Nothing is installed and no root is needed. The lists of packages are our own: those of the machine may be missing, or older
# than what the servers still have.
set -euo pipefail
shopt -s inherit_errexit
PATH=$PATH:/usr/sbin:/sbin

folder=${1:?usage: $0 FOLDER}
work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/apt/{lists,archives}/partial "$work"/{package,kernel/lib}

own=(-qq -o "Dir::State=$work/apt" -o "Dir::Cache=$work/apt" -o Acquire::Retries=2 -o APT::Sandbox::User=)
# A list that cannot be had is but a warning to apt.
apt-get "${own[@]}" -o APT::Update::Error-Mode=any update
# The name without a version stands for the newest.
package=$(apt-cache "${own[@]}" depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
[[ -n $package ]] || {
    echo 'kernel: there is no package linux-image-cloud-amd64' >&2
    exit 1
}
printf 'guests: fetching %s\n' "$package"
cd "$work/package"
apt-get "${own[@]}" download "$package"
dpkg-deb -x ./*.deb .

mv boot/vmlinuz-* "$work/kernel/vmlinuz"
# Since Debian 13 modules are under /usr, and packed.
mv "$(find . -type d -path '*lib/modules' -print -quit)" "$work/kernel/lib/"
ls "$work/kernel/lib/modules" >"$work/kernel/release"
find "$work/kernel" -name '*.ko.xz' -exec xz -d {} +
depmod -b "$work/kernel" "$(cat "$work/kernel/release")"
cd /
mv "$work/kernel" "$folder"
