mount -t tmpfs -o mode=755 building "$target"
debootstrap --variant=minbase "$suite" "$target" "$mirror"
mount -t proc proc "$target/proc"
mount --bind /etc/resolv.conf "$target/etc/resolv.conf" || cp /etc/resolv.conf "$target/etc/resolv.conf"
printf '#!/bin/sh
exit 101
' >"$target/usr/sbin/policy-rc.d"
chmod 755 "$target/usr/sbin/policy-rc.d"
apt-config dump Acquire >"$target/etc/apt/apt.conf.d/00host"
inside() { env -i PATH="$PATH" LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive ${http_proxy:+http_proxy="$http_proxy"} \
    chroot "$target" "$@"; }
inside apt-get -qq update
inside apt-get -qq install -y --no-install-recommends ca-certificates $packages
inside apt-get clean
rm -rf "$target/usr/sbin/policy-rc.d" "$target/etc/apt/apt.conf.d/00host" "$target"/var/lib/apt/lists/*
umount "$target/etc/resolv.conf" "$target/proc"
mkdir "$target.copy"
cp -a "$target/." "$target.copy"
