#!/bin/sh
# apppot-snap, in the guest: archive what was changed in this machine, or merge such an archive.
#
# It reads the overlay that the machine's root is, so it needs no record of the base. The archive
# is GNU tar's incremental form, gzip: apppot-start --changes merges it, and so does GNU tar.
set -u

usage() {
    cat <<'END'
usage: apppot-snap [-v] [-n] base
       apppot-snap [-v] [-n] changes FILE    archive what differs from the image (as root)
       apppot-snap [-v] [-n] merge FILE      unpack an archive here (as root)
options: -v, --verbose: name the files; -n, --dry-run: do nothing but that
END
}

die() {
    echo "apppot-snap: $1" >&2
    exit "${2:-1}"
}

# As 'apppot run --save' has it: caches, and what belongs to one machine alone.
excludes() {
    cat <<'END'
tmp/*
var/tmp/*
run/*
var/run/*
var/lock/*
dev/*
proc/*
sys/*
var/lib/apt/lists/*
var/cache/apt/*.bin
var/cache/apt/archives/*.deb
var/cache/apt/archives/lock
var/cache/apt/archives/partial/*
var/cache/apk/*
var/cache/dnf/*
var/cache/libdnf5/*
var/cache/pacman/pkg/*
var/cache/yum/*
var/cache/zypp/*
var/cache/debconf/*-old
var/cache/fontconfig/*
var/cache/ldconfig/*
var/cache/man/*
var/lib/dpkg/*-old
var/lib/dpkg/lock
var/lib/dpkg/lock-frontend
etc/.pwd.lock
etc/group-
etc/gshadow-
etc/ld.so.cache~
etc/passwd-
etc/shadow-
root/.cache/pip/*
root/.cache/fontconfig/*
home/*/.cache/pip/*
home/*/.cache/fontconfig/*
var/log/*.gz
var/log/*.log
var/log/*.log.[0-9]*
var/log/*.xz
var/log/btmp*
var/log/faillog
var/log/journal/*
var/log/lastlog
var/log/messages*
var/log/syslog*
var/log/wtmp*
root/.*_history
home/*/.*_history
root/.lesshst
etc/machine-id
etc/ssh/ssh_host_*
var/lib/dbus/machine-id
var/lib/dhcp/*
var/lib/systemd/random-seed
var/lib/urandom/*
etc/hostname
etc/hosts
etc/resolv.conf
etc/sudoers.d/apppot
END
}

changes() {
    [ -x /proc/1/exe ] || die "this is no machine of AppPot, or you are not root (try sudo)"
    [ "$dry" = 1 ] || : >"$1.new" || die "cannot write $1"
    set -f
    # The words are patterns for the agent, not for this shell.
    # shellcheck disable=SC2046
    set -- "$1" $(excludes)
    file=$1
    shift
    if [ "$dry" = 1 ]; then
        /proc/1/exe archive dump "$@" | tar -tf -
        exit
    fi
    # A pipe's status is its last command's: the first one's comes through descriptor 3.
    status=$({ { /proc/1/exe archive dump "$@"; echo $? >&3; } | gzip -c >"$file.new" || echo 1 >&3; } 3>&1)
    if [ "$status" != 0 ]; then
        rm -f "$file.new"
        die "the changes could not be archived in $file"
    fi
    mv "$file.new" "$file" || die "cannot write $file"
    [ "$verbose" = 0 ] || tar -tzf "$file"
}

merge() {
    [ -r "$1" ] || die "cannot read $1"
    if [ "$dry" = 1 ]; then
        tar -tzf "$1"
        exit
    fi
    # Not with --incremental, which deletes whatever has come to the base since the archive was made.
    [ "$verbose" = 0 ] || tar -tzf "$1"
    tar -xzpf "$1" -C / --numeric-owner --exclude=./home/user/job --exclude=home/user/job ||
        die "$1 could not be merged"
    echo "apppot-snap: deletions of $1 are not applied here; 'apppot-start --changes' does" >&2
}

verbose=0 dry=0
while [ $# -gt 0 ]; do
    case $1 in
    -v | --verbose) verbose=1 ;;
    -n | --dry-run | --no-act) dry=1 ;;
    -h | --help) usage && exit 0 ;;
    --) shift && break ;;
    -*) usage >&2 && die "unknown option $1" 2 ;;
    *) break ;;
    esac
    shift
done
case ${1:-} in
base)
    # The layers below the overlay are the base, and nobody can change them.
    echo "apppot-snap: nothing to record: the image is the base" >&2
    ;;
changes | merge)
    [ $# -eq 2 ] || { usage >&2 && die "$1 needs the name of a file" 2; }
    "$1" "$2"
    ;;
*)
    usage >&2
    exit 2
    ;;
esac
