/* The writable partition takes the room that its disk has got since it was written. */
#ifndef APPPOT_GROW_H
#define APPPOT_GROW_H

/* The partition; before it is mounted. */
void grow_partition(const char *device);
/* The ext4 file system that is mounted from it. */
void grow_file_system(const char *device, const char *folder);

#endif
