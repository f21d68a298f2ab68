/* A stand-in for the driver of this name. It drives nothing. */
#include <linux/module.h>

MODULE_DESCRIPTION("A stand-in for octeon_ep");
MODULE_LICENSE("GPL");
