#!/bin/busybox sh
# The init of the lab's Linux: mounts the first disk, checks the files of earlier runs, then writes and fsyncs numbered
# files until `q` comes on the serial port. linux.py says what the files are and puts this into an initramfs.

/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs none /dev
mount -t proc none /proc
for module in $(cat /modules/order); do
    insmod "/modules/$module"
done

stop() {
    cd /
    umount /disk 2>/dev/null
    poweroff -f
}

number() {
    # The number in the last whole line of SUMS, which is "md5  number".
    tail -n 1 SUMS 2>/dev/null | sed -n 's/^[0-9a-f]\{32\}  \([0-9]*\)$/\1/p'
}

echo "TRANSHIP START"
tries=0
until [ -b /dev/vda ] || [ $tries -ge 50 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
if ! mount -t ext4 /dev/vda /disk; then
    echo "TRANSHIP FAIL the disk does not mount"
    stop
fi
cd /disk
# A line that the crash cut off was never announced.
if [ -s SUMS ] && [ -z "$(number)" ]; then
    sed -i '$d' SUMS
fi
last=$(number)
last=${last:-0}
valid=0
[ -e SUMS ] && valid=$(md5sum -c SUMS 2>/dev/null | grep -c ': OK$')
echo "TRANSHIP CHECK last=$last valid=$valid bad=$((last - valid))"

stty -icanon -echo </dev/ttyS0
(dd bs=1 count=1 of=/key </dev/ttyS0 2>/dev/null; touch /quit) &
while [ ! -e /quit ]; do
    next=$((last + 1))
    seq $next $((next + SPAN)) | dd of=$next bs=64k conv=fsync 2>/dev/null &&
        md5sum $next | dd of=SUMS oflag=append conv=notrunc,fsync 2>/dev/null || break
    last=$next
    echo "TRANSHIP LAST $last"
    sleep PAUSE
done
[ -e /quit ] || echo "TRANSHIP FAIL a write was refused"
echo "TRANSHIP BYE last=$last"
stop
