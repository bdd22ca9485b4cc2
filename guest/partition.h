/* Partitions of the machine's disks, by the UUID that the disk's table gives them. */
#ifndef APPPOT_PARTITION_H
#define APPPOT_PARTITION_H

#include <stdbool.h>
#include <stddef.h>

/* Waits for the partition's device and writes its path; false if it does not appear. */
bool partition_find(const char *uuid, char *device, size_t size);

#endif
