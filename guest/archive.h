/* The builtin `archive`: layers, changes, or parts of the whole tree as a tar archive. */
#ifndef APPPOT_ARCHIVE_H
#define APPPOT_ARCHIVE_H

/* Writes to standard output; reasons of failure to standard error. Returns the exit status. */
int archive_main(char **argv);

#endif
