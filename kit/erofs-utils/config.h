/* What erofs-utils' configure would find on Linux with glibc and static lz4, lzma, zlib and zstd.
 *
 * AppPot compiles mkfs.erofs without configure, because the release archive has none and making
 * it needs autoconf, automake, libtool and pkg-config. The compiler defines EROFS_VERSION.
 */
#define PACKAGE_VERSION EROFS_VERSION

/* How large a block an image may have: the smallest page size of the guests. */
#define EROFS_MAX_BLOCK_SIZE 4096
#define EROFS_MT_ENABLED 1

#define LZ4_ENABLED 1
#define LZ4HC_ENABLED 1
#define HAVE_ZLIB 1
#define HAVE_ZLIB_H 1
#define HAVE_LIBLZMA 1
#define HAVE_LZMA_H 1
#define HAVE_LIBZSTD 1
#define HAVE_ZSTD_H 1
#define HAVE_ZSTD_GETFRAMECONTENTSIZE 1

#define HAVE_DIRENT_H 1
#define HAVE_FCNTL_H 1
#define HAVE_GETOPT_H 1
#define HAVE_INTTYPES_H 1
#define HAVE_LIMITS_H 1
#define HAVE_LINUX_FALLOC_H 1
#define HAVE_LINUX_FS_H 1
#define HAVE_LINUX_TYPES_H 1
#define HAVE_LINUX_XATTR_H 1
#define HAVE_PTHREAD_H 1
#define HAVE_STDDEF_H 1
#define HAVE_STDINT_H 1
#define HAVE_STDLIB_H 1
#define HAVE_STRING_H 1
#define HAVE_SYS_IOCTL_H 1
#define HAVE_SYS_MMAN_H 1
#define HAVE_SYS_RANDOM_H 1
#define HAVE_SYS_SENDFILE_H 1
#define HAVE_SYS_STATFS_H 1
#define HAVE_SYS_STAT_H 1
#define HAVE_SYS_SYSMACROS_H 1
#define HAVE_SYS_TIME_H 1
#define HAVE_UNISTD_H 1
#define GWINSZ_IN_SYS_IOCTL 1

#define HAVE_STRUCT_STAT_ST_ATIM 1
#define HAVE_STRUCT_STAT_ST_RDEV 1

#define HAVE_COPY_FILE_RANGE 1
#define HAVE_FALLOCATE 1
#define HAVE_FSTATFS 1
#define HAVE_FTELLO64 1
#define HAVE_GETTIMEOFDAY 1
#define HAVE_LGETXATTR 1
#define HAVE_LLISTXATTR 1
#define HAVE_LSEEK64 1
#define HAVE_LSEEK64_PROTOTYPE 1
#define HAVE_LSETXATTR 1
#define HAVE_MEMRCHR 1
#define HAVE_MEMSET 1
#define HAVE_POSIX_FADVISE 1
#define HAVE_PREAD64 1
#define HAVE_PWRITE64 1
#define HAVE_REALPATH 1
#define HAVE_SENDFILE 1
#define HAVE_STRDUP 1
#define HAVE_STRERROR 1
#define HAVE_STRRCHR 1
#define HAVE_STRTOULL 1
#define HAVE_SYSCONF 1
#define HAVE_UTIMENSAT 1
