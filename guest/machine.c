/* The guest's file system: layers, scratch, overlay, kernel file systems, shared folders. */
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/blkpg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "failure.h"
#include "files.h"
#include "made.h"

#define NEW_ROOT "/root"
#define LAYERS "/layers"
#define SCRATCH "/scratch"

enum { DEVICE_WAIT_STEPS = 500, DEVICE_WAIT_NANOSECONDS = 10000000 };

static struct {
    int fds[SHARES_MAX];
    size_t count;
} writable_shares;

/* What is used again after the machine's end. */
static struct {
    bool root, scratch;
} kept;

void machine_mount_early(void)
{
    mkdir("/dev", 0755);
    mkdir("/proc", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

/* What has no path in the guest any more once the root is another one. */
static bool keep_open(const char *path, int number)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail("layers", errno, "open %s", path);
    if (fd != number) {
        dup3(fd, number, O_CLOEXEC);
        close(fd);
    }
    return true;
}

/* Most devices are there at once; those on a slow bus are given five seconds. */
static bool wait_for_device(const char *path)
{
    struct stat found;
    for (int i = 0; i < DEVICE_WAIT_STEPS; i++) {
        if (stat(path, &found) == 0)
            return true;
        nanosleep(&(struct timespec){.tv_nsec = DEVICE_WAIT_NANOSECONDS}, NULL);
    }
    return false;
}

/* Makes one partition of a part of a disk, in place of those that the kernel has found: which part
 * it is has been decided by the host. `device` gets the partition's name. */
static bool make_partition(const struct layer_spec *layer, char *device, size_t size)
{
    enum { PARTITIONS_MAX = 255 };
    int disk = open(layer->device, O_RDONLY | O_CLOEXEC);
    if (disk < 0)
        return fail("layers", errno, "open the disk %s", layer->device);
    struct blkpg_partition part = {.pno = 1};
    struct blkpg_ioctl_arg call = {
        .op = BLKPG_DEL_PARTITION, .datalen = sizeof part, .data = &part};
    for (part.pno = 1; part.pno <= PARTITIONS_MAX; part.pno++)
        ioctl(disk, BLKPG, &call);
    part = (struct blkpg_partition){
        .start = (long long)layer->offset, .length = (long long)layer->size, .pno = 1};
    call.op = BLKPG_ADD_PARTITION;
    int error = ioctl(disk, BLKPG, &call) == 0 ? 0 : errno;
    close(disk);
    char last = layer->device[strlen(layer->device) - 1];
    snprintf(device, size, "%s%s1", layer->device, last >= '0' && last <= '9' ? "p" : "");
    return error == 0 ? true
                      : fail("layers", error, "use %" PRIu64 " bytes at %" PRIu64 " of the disk %s",
                             layer->size, layer->offset, layer->device);
}

/* Only EROFS can begin in the middle of a device. What is not EROFS is a disk of someone else's:
 * its journal is not replayed, since the disk is not to be changed. */
static bool mount_layer(const struct layer_spec *layer, const char *folder, unsigned long flags)
{
    const char *type = layer->type != NULL ? layer->type : "erofs", *device = layer->device;
    char options[64] = "", partition[128];
    if (layer->size != 0)
        device = partition;
    else if (layer->offset != 0)
        snprintf(options, sizeof options, "fsoffset=%" PRIu64, layer->offset);
    if ((flags & MS_RDONLY) != 0 && strcmp(type, "ext4") == 0)
        snprintf(options, sizeof options, "noload");
    else if ((flags & MS_RDONLY) != 0 && strcmp(type, "xfs") == 0)
        snprintf(options, sizeof options, "norecovery");
    if (!wait_for_device(layer->device))
        return fail("layers", ENOENT, "find the device %s", layer->device);
    if (device == partition && !make_partition(layer, partition, sizeof partition))
        return false;
    if (mount(device, folder, type, flags, options[0] != 0 ? options : NULL) != 0)
        return errno == ENODEV
                   ? fail("layers", 0, "the kit's kernel has no driver for %s file systems", type)
                   : fail("layers", errno, "mount the layer %s (%s)", device, type);
    return true;
}

static bool mount_layers(const struct machine_spec *spec)
{
    mkdir(LAYERS, 0755);
    for (size_t i = 0; i < spec->layer_count; i++) {
        char folder[sizeof LAYERS + 24];
        snprintf(folder, sizeof folder, LAYERS "/%zu", i);
        if (mkdir(folder, 0755) != 0)
            return fail("layers", errno, "make %s", folder);
        if (!mount_layer(&spec->layers[i], folder, MS_RDONLY))
            return false;
    }
    return keep_open(LAYERS, LAYERS_DESCRIPTOR);
}

static bool mount_scratch(const struct machine_spec *spec)
{
    mkdir(SCRATCH, 0755);
    if (spec->scratch != NULL) {
        /* Scratch rarely outlives the machine: then nothing is on that only helps after a crash. */
        static const char fast[] = "nobarrier,noauto_da_alloc,noinit_itable";
        if (!wait_for_device(spec->scratch))
            return fail("scratch", ENOENT, "find the device %s", spec->scratch);
        if ((spec->scratch_is_kept ||
             mount(spec->scratch, SCRATCH, "ext4", MS_NOATIME, fast) != 0) &&
            mount(spec->scratch, SCRATCH, "ext4", MS_NOATIME, NULL) != 0)
            return fail("scratch", errno, "mount %s as scratch", spec->scratch);
    } else {
        char options[64] = "mode=0755,nr_inodes=0";
        if (spec->scratch_size != 0)
            snprintf(options, sizeof options, "mode=0755,nr_inodes=0,size=%" PRIu64,
                     spec->scratch_size);
        if (mount("scratch", SCRATCH, "tmpfs", MS_NOATIME, options) != 0)
            return fail("scratch", errno, "mount scratch (tmpfs, %s)", options);
    }
    if ((mkdir(SCRATCH "/upper", 0755) != 0 && errno != EEXIST) ||
        (mkdir(SCRATCH "/work", 0755) != 0 && errno != EEXIST))
        return fail("scratch", errno, "make folders in scratch");
    return keep_open(SCRATCH, SCRATCH_DESCRIPTOR);
}

static bool mount_overlay(size_t layers, bool is_kept)
{
    char options[LAYERS_MAX * 4 + 256];
    /* `volatile`: fsync() of the payload need not reach a scratch that is thrown away. */
    size_t used = (size_t)snprintf(
        options, sizeof options,
        "%sredirect_dir=on,metacopy=off,index=off,xino=auto,upperdir=" SCRATCH
        "/upper,workdir=" SCRATCH "/work,lowerdir=",
        is_kept ? "" : "volatile,");
    for (size_t i = layers; i > 0; i--)
        used += (size_t)snprintf(options + used, sizeof options - used, "%zu%s", i - 1,
                                 i > 1 ? ":" : "");
    mkdir(NEW_ROOT, 0755);
    /* Relative names keep the list of many layers within the one page that mount(2) takes. */
    if (chdir(LAYERS) != 0 || mount("apppot", NEW_ROOT, "overlay", MS_NOATIME, options) != 0)
        return fail("overlay", errno, "mount the overlay of %zu layers", layers);
    return true;
}

struct kernel_mount {
    const char *type, *target;
    unsigned long flags;
    const char *options;
};

static void mount_kernel_file_systems(void)
{
    static const struct kernel_mount mounts[] = {
        {"sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
        {"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
        {"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"},
        {"mqueue", "/dev/mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
        {"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755"},
        {"cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
    };
    for (size_t i = 0; i < sizeof mounts / sizeof *mounts; i++) {
        if (mkdir(mounts[i].target, 0755) == 0)
            made_path(mounts[i].target);
        mount(mounts[i].type, mounts[i].target, mounts[i].type, mounts[i].flags,
              mounts[i].options);
    }
    static const char *const links[][2] = {
        {"/proc/self/fd", "/dev/fd"},
        {"/proc/self/fd/0", "/dev/stdin"},
        {"/proc/self/fd/1", "/dev/stdout"},
        {"/proc/self/fd/2", "/dev/stderr"},
    };
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        if (symlink(links[i][0], links[i][1]) != 0)
            errno = 0;
    /* As udev does: both check their callers themselves. */
    const mode_t open_to_all = 0666;
    chmod("/dev/fuse", open_to_all);
    chmod("/dev/net/tun", open_to_all);
    const mode_t everyone = 01777;
    if (mkdir("/run/lock", everyone) == 0)
        chmod("/run/lock", everyone);
    struct stat found;
    if (stat("/tmp", &found) != 0 || !S_ISDIR(found.st_mode)) {
        unlink("/tmp");
        mkdir("/tmp", everyone);
        made_path("/tmp");
    }
    if (stat("/tmp", &found) == 0 && (found.st_mode & 07777) != everyone)
        chmod("/tmp", everyone);
}

static bool carry_mount(const char *from, const char *to)
{
    struct stat found;
    if (lstat(to, &found) != 0 || !S_ISDIR(found.st_mode)) {
        unlink(to);
        mkdir(to, 0755);
        made_path(to + sizeof NEW_ROOT - 1);
    }
    if (mount(from, to, NULL, MS_MOVE, NULL) != 0)
        return fail("overlay", errno, "move %s into the new root", from);
    return true;
}

static bool switch_root(void)
{
    if (!carry_mount("/dev", NEW_ROOT "/dev") || !carry_mount("/proc", NEW_ROOT "/proc"))
        return false;
    unlink("/init");
    if (chdir(NEW_ROOT) != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 ||
        chdir("/") != 0)
        return fail("overlay", errno, "switch to the new root");
    return true;
}

bool machine_make_root(const struct machine_spec *spec)
{
    if (spec->layer_is_root) {
        mkdir(NEW_ROOT, 0755);
        if (!mount_layer(&spec->layers[0], NEW_ROOT, MS_NOATIME))
            return false;
    } else if (!mount_layers(spec) || !mount_scratch(spec) ||
               !mount_overlay(spec->layer_count, spec->scratch_is_kept)) {
        return false;
    }
    kept.root = spec->layer_is_root;
    kept.scratch = spec->scratch_is_kept;
    if (!switch_root())
        return false;
    mount_kernel_file_systems();
    return true;
}

static int make_mount_point(const struct share_spec *share, const struct machine_spec *spec)
{
    const char *path = share->target;
    if (!share->single_file)
        return make_folders(path, spec->home, (uid_t)spec->uid, (gid_t)spec->gid);
    struct stat found;
    if (stat(path, &found) == 0)
        return 0;
    if (make_parents(path, spec->home, (uid_t)spec->uid, (gid_t)spec->gid) != 0)
        return -1;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    made_path(path);
    return fd < 0 ? -1 : close(fd);
}

/* Mounts the folder of a shared file where nobody looks, and of it the file alone. */
static int mount_part(const struct share_spec *share, unsigned long flags)
{
    static const char aside[] = "/run/.share";
    char path[sizeof aside + NAME_MAX + 1];
    if (mkdir(aside, 0700) != 0 || mount(share->source, aside, share->type, flags, share->options) != 0)
        return -1;
    snprintf(path, sizeof path, "%s/%s", aside, share->part);
    int error = mount(path, share->target, NULL, MS_BIND, NULL) == 0 ? 0 : errno;
    umount2(aside, MNT_DETACH);
    rmdir(aside);
    errno = error;
    return error == 0 ? 0 : -1;
}

static int mount_share(const struct share_spec *share, unsigned long flags)
{
    return share->part != NULL
               ? mount_part(share, flags)
               : mount(share->source, share->target, share->type, flags, share->options);
}

bool machine_mount_shares(const struct machine_spec *spec)
{
    for (size_t i = 0; i < spec->share_count; i++) {
        const struct share_spec *share = &spec->shares[i];
        unsigned long flags = MS_NOSUID | MS_NODEV | (share->read_only ? MS_RDONLY : 0);
        if (make_mount_point(share, spec) != 0)
            return fail("share", errno, "make the mount point %s", share->target);
        if (mount_share(share, flags) != 0)
            return fail("share", errno, "mount the shared folder %s (%s)", share->target,
                        share->type);
        if (share->read_only)
            continue;
        int fd = open(share->target, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (fd < 0)
            return fail("share", errno, "open the shared folder %s", share->target);
        writable_shares.fds[writable_shares.count++] = fd;
    }
    return true;
}

void machine_seal(void)
{
    int upper = openat(SCRATCH_DESCRIPTOR, "upper", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (upper >= 0) {
        made_seal(upper);
        close(upper);
    }
}

int machine_sync_shares(void)
{
    int first = 0;
    for (size_t i = 0; i < writable_shares.count; i++)
        if (syncfs(writable_shares.fds[i]) != 0 && first == 0)
            first = errno;
    return first;
}

/* Read-only, a file system is as if it were unmounted. If something holds it, it is written out,
 * and its journal makes it whole at the next mount. */
static int close_mount(int folder)
{
    if (fchdir(folder) == 0 &&
        mount(NULL, ".", NULL, MS_REMOUNT | MS_RDONLY | MS_NOATIME, NULL) == 0)
        return 0;
    return syncfs(folder) == 0 ? 0 : errno;
}

int machine_close_root(void)
{
    if (!kept.root && !kept.scratch)
        return 0;
    int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = root < 0 ? errno : close_mount(root);
    if (kept.scratch) {
        int second = close_mount(SCRATCH_DESCRIPTOR);
        error = error != 0 ? error : second;
    }
    return error;
}
