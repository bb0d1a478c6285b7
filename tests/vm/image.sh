#!/usr/bin/env bash
# Build the image of the virtual machine that run.py boots, unless it is there: image.sh REQUIREMENTS DIRECTORY
#
# In it are Debian's testing release with systemd and the kernel for clouds, the user "learner", and a Python with the
# requirements. The package is not: one image serves each state of the sources. It is built again when this file, the
# unit or the requirements change; DIRECTORY/recipe holds their hash. Building needs root.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
requirements="$(realpath "$1")"
directory="$(realpath --canonicalize-missing "$2")"
suite=forky
packages=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,procps,python3,python3-venv,ca-certificates
packages+=,linux-image-cloud-amd64
spare_mib=3072  # what is free on the disk
bound_s=3600

recipe="$(cat "$here/image.sh" "$here/tests.service" "$requirements" | sha256sum | cut -d ' ' -f 1)"
[[ ! -f "$directory/recipe" || "$(<"$directory/recipe")" != "$recipe" ]] || exit 0
if [[ "$(id -u)" != 0 ]]; then
    echo "The image of the virtual machine is to be built, which needs root: sudo $0 $*" >&2
    exit 1
fi
# In a mount namespace of its own no mount is left over, and nothing that is removed is reached through one.
if [[ "${IN_NAMESPACE:-}" != yes ]]; then
    IN_NAMESPACE=yes exec timeout --kill-after=10 "$bound_s" unshare --mount "${BASH_SOURCE[0]}" "$@" </dev/null
fi

# What apt names as Debian's own archive here, unless MIRROR is set.
mirror="${MIRROR:-$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
    sed -n 's/^Debian //p' | head -n 1)}"
[[ -n "$mirror" ]] || { echo "apt knows no archive of Debian here; set MIRROR=URL" >&2; exit 1; }

new="$directory/new"
root="$new/root"
log="$directory/image.log"
rm -rf --one-file-system "$new"
mkdir -p "$root"
echo "Building the image of the virtual machine, which takes some minutes; see $log"
exec 3>&2 >"$log" 2>&1
trap 'tail -n 20 "$log" >&3; echo "The image was not built: $log" >&3' ERR

debootstrap --variant=minbase --include="$packages" "$suite" "$root" "$mirror" /usr/share/debootstrap/scripts/sid

mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
# Certificates of this machine, as an index or a proxy of its own may be signed with one.
mount --bind "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$root/etc/ssl/certs/ca-certificates.crt"
cp "$requirements" "$root/tmp/requirements.txt"
mapfile -t handed < <(env | grep -iE '^(https?_proxy|no_proxy|PIP_INDEX_URL)=' || true)
within() { env -i PATH=/usr/sbin:/usr/bin HOME=/root "${handed[@]}" chroot "$root" "$@"; }
within python3 -m venv /opt/tests
within /opt/tests/bin/pip install --no-cache-dir --require-hashes --only-binary=:all: -r /tmp/requirements.txt
within useradd --create-home --uid 1000 --shell /bin/bash learner
within rm -rf /tmp/requirements.txt /var/cache/apt /var/lib/apt/lists /var/log/bootstrap.log
umount "$root/etc/ssl/certs/ca-certificates.crt" "$root/proc"
umount --recursive "$root/dev"

# Lingering: the user's own systemd runs from the boot on, as it does for somebody who is logged in.
mkdir -p "$root/var/lib/systemd/linger" "$root/etc/systemd/system/multi-user.target.wants"
touch "$root/var/lib/systemd/linger/learner"
cp "$here/tests.service" "$root/etc/systemd/system/"
ln -s ../tests.service "$root/etc/systemd/system/multi-user.target.wants/"
# Files in memory would count as memory of the task that wrote them; a terminal and timers would only take time.
for unit in tmp.mount serial-getty@ttyS0.service getty@tty1.service apt-daily.timer apt-daily-upgrade.timer \
    dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-tmpfiles-clean.timer; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

mv "$root"/boot/vmlinuz-* "$new/vmlinuz"
mv "$root"/boot/initrd.img-* "$new/initrd.img"
size_mib="$(($(du -sm --one-file-system "$root" | cut -f 1) + spare_mib))"
mke2fs -q -t ext4 -O ^has_journal -d "$root" "$new/root.img" "${size_mib}M"
chmod a+r "$new/vmlinuz" "$new/initrd.img" "$new/root.img"
rm -rf --one-file-system "$root" "$directory/recipe"
mv "$new"/* "$directory/"
rmdir "$new"
printf '%s\n' "$recipe" >"$directory/recipe"
