/* What is in a file: its data with its holes, its extended attributes, its other names. */
#ifndef APPPOT_CONTENTS_H
#define APPPOT_CONTENTS_H

#include <stdbool.h>
#include <sys/stat.h>

#include "tar.h"

/* Adds the extended attributes, except for those in which overlayfs keeps its notes. */
bool contents_attributes(int folder, const char *name, struct tar_records *records);

/* Writes header and data of a regular file. */
bool contents_file(struct tar_entry *entry, int folder, const char *name, const struct stat *found);
/* The same of a short file of lines, without one of them. */
bool contents_without_line(struct tar_entry *entry, int folder, const char *name, const char *line);

/* NULL: this is the first name of a file that has several. */
const char *contents_first_name(const struct stat *found, const char *path);

#endif
