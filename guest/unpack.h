/* The builtin `unpack`: the files of a tar archive, into a folder of the guest. */
#ifndef APPPOT_UNPACK_H
#define APPPOT_UNPACK_H

/* Reads standard input; reasons of failure go to standard error. Returns the exit status. */
int unpack_main(char **argv);

#endif
