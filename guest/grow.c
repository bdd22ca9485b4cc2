/* The writable partition takes the room that its disk has got since it was written. */
#include "grow.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/blkpg.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "console.h"
#include "files.h"
#include "gpt.h"

#define EXT4_IOC_RESIZE_FS _IOW('f', 16, uint64_t)

/* Opens the disk that the partition is on, and tells the partition's number. */
static int open_disk(const char *device, unsigned *number)
{
    char path[320], text[32], target[512];
    const char *name = device + sizeof "/dev/" - 1;
    snprintf(path, sizeof path, "/sys/class/block/%.200s/partition", name);
    read_small_file(path, text, sizeof text);
    *number = (unsigned)strtoul(text, NULL, 10);
    snprintf(path, sizeof path, "/sys/class/block/%.200s", name);
    ssize_t length = readlink(path, target, sizeof target - 1);
    if (*number == 0 || length <= 0)
        return -1;
    target[length] = 0;
    char *slash = strrchr(target, '/');
    if (slash == NULL)
        return -1;
    *slash = 0;
    slash = strrchr(target, '/');
    snprintf(path, sizeof path, "/dev/%.200s", slash != NULL ? slash + 1 : target);
    return open(path, O_RDWR | O_CLOEXEC);
}

/* The second copy first: one of the two is whole at any time. */
static bool write_table(int disk, const uint8_t *head, const uint8_t *tail, uint64_t sectors)
{
    return pwrite(disk, tail, GPT_TAIL, (off_t)(sectors * GPT_SECTOR - GPT_TAIL)) == GPT_TAIL &&
           fsync(disk) == 0 && pwrite(disk, head, GPT_HEAD, 0) == GPT_HEAD && fsync(disk) == 0;
}

static bool tell_kernel(int disk, unsigned number, struct extent extent)
{
    struct blkpg_partition part = {.pno = (int)number,
                                   .start = (long long)extent.first * GPT_SECTOR,
                                   .length = (long long)extent.count * GPT_SECTOR};
    struct blkpg_ioctl_arg call = {
        .op = BLKPG_RESIZE_PARTITION, .datalen = sizeof part, .data = &part};
    return ioctl(disk, BLKPG, &call) == 0;
}

void grow_partition(const char *device)
{
    static uint8_t head[GPT_HEAD], tail[GPT_TAIL];
    unsigned number;
    uint64_t size = 0;
    int disk = open_disk(device, &number);
    if (disk < 0)
        return;
    if (ioctl(disk, (int)BLKGETSIZE64, &size) == 0 && pread(disk, head, sizeof head, 0) == sizeof head) {
        struct extent extent = gpt_grow(head, tail, size / GPT_SECTOR, number);
        if (extent.count != 0 && (!write_table(disk, head, tail, size / GPT_SECTOR) ||
                                  !tell_kernel(disk, number, extent)))
            consoles_say("apppot: the writable partition cannot grow: %s\n", strerror(errno));
    }
    close(disk);
}

void grow_file_system(const char *device, const char *folder)
{
    char path[320], text[32];
    struct statfs found;
    snprintf(path, sizeof path, "/sys/class/block/%.200s/size", device + sizeof "/dev/" - 1);
    read_small_file(path, text, sizeof text);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 && fstatfs(fd, &found) == 0 && found.f_bsize > 0) {
        uint64_t blocks = strtoull(text, NULL, 10) * GPT_SECTOR / (uint64_t)found.f_bsize;
        /* What the file system needs for itself is not counted by statfs: an eighth is no growth. */
        if (blocks > (uint64_t)found.f_blocks / 8 * 9 &&
            ioctl(fd, EXT4_IOC_RESIZE_FS, &blocks) != 0)
            consoles_say("apppot: the writable file system cannot grow: %s\n", strerror(errno));
    }
    if (fd >= 0)
        close(fd);
}
