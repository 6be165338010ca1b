#!/bin/bash
# mesh-init on other kernels: `make guests`, or
#     tests/guests.sh MESH_INIT GUESTS FOLDER [SHAPE…]
# with the paths of the program and of the built tests/guests, and a folder that the kernel is kept in.
#
# Every shape in tests/guests/shapes.rs is a virtual machine: Debian's kernel, and a file system in memory with some of that
# kernel's modules, mesh-init, the checks, and the few programs that these call. Needs no root. Emulated even where the
# machine could do better: the same everywhere, and there are hosts whose /dev/kvm hangs.
set -euo pipefail
shopt -s inherit_errexit
PATH=$PATH:/usr/sbin:/sbin

[[ $# -ge 3 ]] || {
    echo "usage: $0 MESH_INIT GUESTS FOLDER [SHAPE…]" >&2
    exit 2
}
mesh_init=$(realpath "$1")
guests=$(realpath "$2")
mkdir -p "$3"
folder=$(realpath "$3")
shift 3
cd "$(dirname "$0")"
# Seconds that a guest has from its first instruction to its last.
readonly PATIENCE=180

# What cannot be had is told and fails where CI is set: there a skipped test is a promise that nobody checked.
cannot() {
    printf 'guests: skipped: %s\n' "$*" >&2
    [[ -z ${CI:-} ]] || {
        echo 'guests: CI must not skip them: FAILED' >&2
        exit 1
    }
    exit 0
}

[[ $(uname -m) == x86_64 ]] || cannot "the guests are x86_64 machines, this one is $(uname -m)"
./setup.sh guests || cannot 'programs are missing, see above'

work=$(mktemp -d "$folder/work.XXXXXX")
# The shapes of the guests that are at work, by process.
declare -A running=()
clean_up() {
    trap '' HUP INT TERM
    # A guest ends with the `timeout` that it is started by.
    [[ ${#running[@]} -eq 0 ]] || kill "${!running[@]}" 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap clean_up EXIT

[[ -d $folder/kernel ]] || guests/kernel.sh "$folder/kernel" ||
    cannot "apt-get cannot fetch Debian's kernel linux-image-cloud-amd64, see above"
release=$(cat "$folder/kernel/release")

pack() {
    (cd "$1" && find . | cpio -o -H newc --owner=0:0 --quiet)
}

# What is the same in all guests.
root=$work/root
mkdir -p "$root"/{dev,proc,run,sys,tmp,usr/bin,usr/sbin,usr/lib,usr/lib64}
ln -s usr/bin usr/sbin usr/lib usr/lib64 "$root"
for program in busybox ip nsenter setpriv cat; do
    path=$(command -v "$program")
    cp -L "$path" "$root/usr/bin/"
    for library in $(ldd "$path" 2>/dev/null | grep -o '/[^ ]*'); do
        cp -L --parents -u "$library" "$root"
    done
done
cp guests/init "$root/init"
cp "$guests" "$root/guests"
strip "$root/guests"
install -D -m 755 "$mesh_init" "$root$("$guests" program)"
pack "$root" >"$work/common.cpio"

# A guest's own part: its name, and its modules in the order in which they are to be loaded.
shape_files() {
    local own=$work/$1.files modules path
    read -ra modules < <("$guests" modules "$1")
    mkdir -p "$own/modules"
    printf '%s\n' "$1" >"$own/shape"
    modprobe -d "$folder/kernel" -S "$release" --show-depends -a "${modules[@]}" | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' |
        while read -r path; do
            cp "$path" "$own/modules/"
            basename "$path"
        done >"$own/modules/order"
    pack "$own"
}

# Boots a guest and waits for its end. Left are $work/NAME.{results,console}. Under emulation, timers come late enough for the
# kernel to take them for broken if it looks.
boot() {
    shape_files "$1" | cat "$work/common.cpio" - >"$work/$1.cpio"
    exec timeout -k 5 "$PATIENCE" qemu-system-x86_64 -M q35 -accel tcg -cpu max -m 384 -smp 1 -nodefaults -no-user-config -no-reboot \
        -display none -serial "file:$work/$1.console" -serial "file:$work/$1.results" -kernel "$folder/kernel/vmlinuz" \
        -initrd "$work/$1.cpio" -append "console=ttyS0 loglevel=5 panic=-1 reboot=t no_timer_check $("$guests" parameters "$1")" </dev/null
}

mapfile -t known < <("$guests" shapes)
shapes=("${@:-${known[@]}}")
printf 'guests: Linux %s, %d shapes\n' "$release" "${#shapes[@]}"

# Prints what a guest told. It has told all if it came to its end and nothing failed on the way.
failed=()
report() {
    local shape=$1 code=$2 results=$work/$1.results
    touch "$results" "$work/$shape.console"
    tr -d '\r' <"$results"
    if [[ $code -eq 0 ]] && grep -q '^end: .* 0 failed' "$results" && ! grep -q '^FAIL' "$results" &&
        ! grep -qE 'BUG:|WARNING:|Oops|general protection' "$work/$shape.console"; then
        return
    fi
    failed+=("$shape")
    printf -- '--- the console of %s (qemu: %d)\n' "$shape" "$code"
    tail -n 60 "$work/$shape.console" | tr -d '\r'
    printf -- '---\n'
}

start() {
    boot "$1" &
    running[$!]=$1
}

# Waits for the first guest that ends. One that has not come to its first process, which is the kernel's and the emulator's
# affair, has a second try.
declare -A tried=()
await_any() {
    local pid shape code=0
    wait -n -p pid "${!running[@]}" || code=$?
    shape=${running[$pid]}
    unset "running[$pid]"
    if [[ ! -s $work/$shape.results && -z ${tried[$shape]:-} ]]; then
        printf 'guests: %s did not start (qemu: %d), once more\n' "$shape" "$code"
        tried[$shape]=1
        start "$shape"
    else
        report "$shape" "$code"
    fi
}
for shape in "${shapes[@]}"; do
    [[ ${#running[@]} -lt $(nproc) ]] || await_any
    start "$shape"
done
while [[ ${#running[@]} -gt 0 ]]; do
    await_any
done

[[ ${#failed[@]} -eq 0 ]] || {
    printf 'guests: FAILED: %s\n' "${failed[*]}" >&2
    exit 1
}
printf 'guests: all as expected, %d s\n' "$SECONDS"
