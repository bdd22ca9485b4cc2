/* The builtin `tidy`: renames and deletions of an incremental archive. */
#ifndef APPPOT_TIDY_H
#define APPPOT_TIDY_H

/* Reads standard input; reasons of failure go to standard error. Returns the exit status. */
int tidy_main(char **argv);

#endif
