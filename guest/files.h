/* Small helpers for files and folders of the guest. */
#ifndef APPPOT_FILES_H
#define APPPOT_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Makes the folder and its parents (0755). 0, or -1 with errno. Folders made at or below `home`
 * (may be NULL) belong to `uid`, `gid`. */
int make_folders(const char *path, const char *home, uid_t uid, gid_t gid);

/* The same for all folders above `path`. */
int make_parents(const char *path, const char *home, uid_t uid, gid_t gid);

/* Opens a file for writing anew; makes its folder if needed, and replaces what is in the way
 * (a symbolic link to nowhere). A descriptor, or -1 with errno. */
int create_file(const char *path, mode_t mode);

/* Writes a short text to a file of the kernel; failure is not reported. */
void set_kernel_value(const char *path, const char *text);

/* Reads up to size - 1 bytes and terminates them; an unreadable file is empty. */
void read_small_file(const char *path, char *text, size_t size);

#endif
