/* What the agent itself has put into the root: it is the machine's, and no change of its user's. */
#ifndef APPPOT_MADE_H
#define APPPOT_MADE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

/* An absolute path that the agent has made, or is about to. */
void made_path(const char *path);
/* A line that the agent has added to a file. */
void made_line(const char *path, const char *line);
/* Everything has been made, in this upper folder of the overlay: from here on others change it. */
void made_seal(int upper);

/* In another process of the same program: takes over what process 1 has made. */
bool made_load(void);

/* Whether a path of the upper folder (without a slash before it) is as the agent has made it. */
bool made_is_untouched(const char *path, const struct stat *now);
/* The line that was added to a file, without its end; NULL if none was. */
const char *made_line_of(const char *path);

#endif
