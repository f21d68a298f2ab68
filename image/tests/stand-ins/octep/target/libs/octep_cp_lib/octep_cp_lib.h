/* A stand-in for the makers' library. */
int octep_cp_lib_open(const char *dpi, const char *pem);
