/* What the owner of an instance has given it to run: volumes that a cloud attaches for it. */
#include "userdata.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "console.h"
#include "volume.h"

#define FOLDER "/seed"

static struct bytes read_file(const char *path)
{
    struct bytes none = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return none;
    uint8_t *bytes = malloc(USERDATA_MAX + 1);
    size_t size = 0;
    ssize_t got = 1;
    while (bytes != NULL && size <= USERDATA_MAX && got > 0) {
        got = read(fd, bytes + size, USERDATA_MAX + 1 - size);
        size += got > 0 ? (size_t)got : 0;
    }
    close(fd);
    if (bytes == NULL || got < 0 || size > USERDATA_MAX) {
        consoles_say("apppot: %s is longer than %d bytes, or damaged: it is not used\n", path,
                     USERDATA_MAX);
        free(bytes);
        return none;
    }
    return (struct bytes){bytes, size};
}

static struct bytes try_volume(const char *name, uint8_t *head)
{
    char device[300];
    const char *file = NULL, *type = NULL;
    struct bytes data = {0};
    snprintf(device, sizeof device, "/dev/%s", name);
    int fd = open(device, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return data;
    if (pread(fd, head, VOLUME_HEAD, 0) == VOLUME_HEAD)
        type = userdata_volume(head, &file);
    close(fd);
    const unsigned long flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
    mkdir(FOLDER, 0700);
    if (type == NULL || mount(device, FOLDER, type, flags, NULL) != 0)
        return data;
    char path[sizeof FOLDER + 64];
    snprintf(path, sizeof path, FOLDER "/%s", file);
    data = read_file(path);
    umount2(FOLDER, MNT_DETACH);
    return data;
}

struct bytes userdata_from_volumes(void)
{
    static uint8_t head[VOLUME_HEAD];
    struct bytes data = {0};
    DIR *folder = opendir("/sys/class/block");
    if (folder == NULL)
        return data;
    for (struct dirent *entry = readdir(folder); entry != NULL && data.size == 0;
         entry = readdir(folder))
        if (entry->d_name[0] != '.' && strncmp(entry->d_name, "loop", 4) != 0)
            data = try_volume(entry->d_name, head);
    closedir(folder);
    return data;
}
