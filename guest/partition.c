/* Partitions of the machine's disks, by the UUID that the disk's table gives them. */
#include "partition.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "files.h"

/* Disks behind a controller that has to be probed take a second or two, under emulation more. */
enum { WAIT_STEPS = 3000, WAIT_NANOSECONDS = 10000000 };

/* The value of `name` in the text of a uevent file, which is changed; NULL if it has none. */
static const char *value_of(char *text, const char *name)
{
    size_t length = strlen(name);
    char *place = NULL;
    for (char *line = strtok_r(text, "\n", &place); line != NULL;
         line = strtok_r(NULL, "\n", &place))
        if (strncmp(line, name, length) == 0 && line[length] == '=')
            return line + length + 1;
    return NULL;
}

static bool look(const char *uuid, char *device, size_t size)
{
    DIR *folder = opendir("/sys/class/block");
    if (folder == NULL)
        return false;
    bool found = false;
    for (struct dirent *entry = readdir(folder); entry != NULL && !found;
         entry = readdir(folder)) {
        char path[320], text[1024];
        snprintf(path, sizeof path, "/sys/class/block/%s/uevent", entry->d_name);
        read_small_file(path, text, sizeof text);
        const char *value = value_of(text, "PARTUUID");
        found = value != NULL && strcasecmp(value, uuid) == 0;
        if (found)
            snprintf(device, size, "/dev/%s", entry->d_name);
    }
    closedir(folder);
    return found;
}

bool partition_find(const char *uuid, char *device, size_t size)
{
    for (int i = 0; i < WAIT_STEPS; i++) {
        if (look(uuid, device, size))
            return true;
        nanosleep(&(struct timespec){.tv_nsec = WAIT_NANOSECONDS}, NULL);
    }
    return false;
}
