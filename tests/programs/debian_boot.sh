hostname localhost
ip link set lo up
mount -t cgroup2 cgroup2 sys/fs/cgroup
ln -sf /dev/null etc/systemd/system/systemd-modules-load.service
