mount -t tmpfs -o mode=755 scratch "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay -o "lowerdir=$system,upperdir=$work/upper,workdir=$work/work" overlay "$work/root" 2>/dev/null ||
    { cp -a "$system/." "$work/root"; mount --bind "$work/root" "$work/root"; }
cd "$work/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 dev dev
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mount -t tmpfs -o mode=755 run run
[ -s etc/hosts ] || printf '127.0.0.1 localhost\n::1 localhost\n' >etc/hosts
while read -r path inside; do
    if [ -d "$path" ]; then mkdir -p ".$inside"; else mkdir -p ".${inside%/*}"; [ -e ".$inside" ] || touch ".$inside"; fi
    mount --rbind "$path" ".$inside"
done <"$binds"
