/* A stand-in for the makers' program: `octep_cp_agent CONFIG -- --dpi_dev D --pem_dev P`. It serves nothing. */
#include <libconfig.h>
#include <octep_cp_lib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	const char *dpi = NULL, *pem = NULL;
	config_t config;

	if (argc < 3 || strcmp(argv[2], "--")) {
		fprintf(stderr, "usage: %s CONFIG -- --dpi_dev D --pem_dev P\n", argv[0]);
		return 2;
	}
	for (int i = 3; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--dpi_dev"))
			dpi = argv[i + 1];
		else if (!strcmp(argv[i], "--pem_dev"))
			pem = argv[i + 1];
	}
	config_init(&config);
	if (!config_read_file(&config, argv[1])) {
		fprintf(stderr, "%s:%d: %s\n", argv[1], config_error_line(&config), config_error_text(&config));
		return 1;
	}
	if (octep_cp_lib_open(dpi, pem)) {
		fprintf(stderr, "both devices have to be named\n");
		return 1;
	}
	printf("fw ready 1\n");
	for (;;)
		pause();
}
