/* Sets what a board says of the endpoint in the makers' configuration of octep_cp_agent, with the library that reads it
 * on the card: octep-config FROM TO MAC VFS SPEED, where `-` leaves as it is. What was written is read back, and has to be
 * what was there but for what was set.
 *
 * The file, as octep_cp_agent's app_config.c reads it:
 *   soc = { pems = ( { idx; pfs = ( { idx; mac_addr = [6 numbers]; speed; …; vfs = ( { as a PF } ) } ) } ) }
 */
#include <libconfig.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAC_LENGTH 6

struct wish {
	unsigned long long mac; /* of the first PF; the others count up */
	int has_mac, vfs, speed; /* -1: as it is */
};

static void fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(1);
}

static void *needed(void *made)
{
	if (!made)
		fail("a setting could not be made");
	return made;
}

static void read_file(config_t *config, const char *path)
{
	config_init(config);
	if (!config_read_file(config, path))
		fail("%s:%d: %s", path, config_error_line(config), config_error_text(config));
}

/* A list of groups that has to be there. */
static config_setting_t *groups(config_setting_t *of, const char *name, const char *where)
{
	config_setting_t *list = config_setting_get_member(of, name);

	if (!list || !config_setting_is_list(list) || !config_setting_length(list))
		fail("%s has no list `%s`: the file is laid out otherwise than octep_cp_agent 25.03 reads it", where, name);
	for (int i = 0; i < config_setting_length(list); i++)
		if (!config_setting_is_group(config_setting_get_elem(list, i)))
			fail("`%s` of %s holds something else than groups", name, where);
	return list;
}

static config_setting_t *pems(config_t *config)
{
	config_setting_t *soc = config_lookup(config, "soc");

	if (!soc || !config_setting_is_group(soc))
		fail("there is no group `soc`: the file is laid out otherwise than octep_cp_agent 25.03 reads it");
	return groups(soc, "pems", "`soc`");
}

static void copy_value(config_setting_t *to, config_setting_t *from)
{
	config_setting_set_format(to, config_setting_get_format(from));
	switch (config_setting_type(from)) {
	case CONFIG_TYPE_INT:
		config_setting_set_int(to, config_setting_get_int(from));
		break;
	case CONFIG_TYPE_INT64:
		config_setting_set_int64(to, config_setting_get_int64(from));
		break;
	case CONFIG_TYPE_FLOAT:
		config_setting_set_float(to, config_setting_get_float(from));
		break;
	case CONFIG_TYPE_BOOL:
		config_setting_set_bool(to, config_setting_get_bool(from));
		break;
	case CONFIG_TYPE_STRING:
		config_setting_set_string(to, config_setting_get_string(from));
		break;
	default:
		for (int i = 0; i < config_setting_length(from); i++) {
			config_setting_t *item = config_setting_get_elem(from, i);

			copy_value(needed(config_setting_add(to, config_setting_name(item), config_setting_type(item))), item);
		}
	}
}

/* Whether two settings say the same, members of these names aside. */
static int same(config_setting_t *one, config_setting_t *other, const char *const *aside)
{
	int type = config_setting_type(one), left = 0;

	if (type != config_setting_type(other))
		return 0;
	switch (type) {
	case CONFIG_TYPE_INT:
	case CONFIG_TYPE_INT64:
		return config_setting_get_int64(one) == config_setting_get_int64(other);
	case CONFIG_TYPE_FLOAT:
		return config_setting_get_float(one) == config_setting_get_float(other);
	case CONFIG_TYPE_BOOL:
		return config_setting_get_bool(one) == config_setting_get_bool(other);
	case CONFIG_TYPE_STRING:
		return !strcmp(config_setting_get_string(one), config_setting_get_string(other));
	}
	for (int i = 0; i < config_setting_length(one); i++) {
		config_setting_t *item = config_setting_get_elem(one, i), *match;
		const char *name = config_setting_name(item);
		int is_aside = 0;

		for (const char *const *word = aside; name && *word; word++)
			is_aside |= !strcmp(name, *word);
		if (is_aside)
			continue;
		left++;
		match = name ? config_setting_get_member(other, name) : config_setting_get_elem(other, i);
		if (!match || !same(item, match, (const char *const[]){ NULL }))
			return 0;
	}
	for (int i = 0; i < config_setting_length(other); i++) {
		const char *name = config_setting_name(config_setting_get_elem(other, i));
		int is_aside = 0;

		for (const char *const *word = aside; name && *word; word++)
			is_aside |= !strcmp(name, *word);
		left -= !is_aside;
	}
	return !left;
}

/* Sets what is wished of one function, PF or VF. */
static void set_function(config_setting_t *function, const struct wish *wish, unsigned long long mac)
{
	if (wish->has_mac) {
		config_setting_t *array;

		config_setting_remove(function, "mac_addr");
		array = needed(config_setting_add(function, "mac_addr", CONFIG_TYPE_ARRAY));
		for (int i = MAC_LENGTH - 1; i >= 0; i--) {
			config_setting_t *byte = needed(config_setting_set_int_elem(array, -1, mac >> (8 * i) & 0xff));

			config_setting_set_format(byte, CONFIG_FORMAT_HEX);
		}
	}
	if (wish->speed >= 0) {
		config_setting_remove(function, "speed");
		config_setting_set_int(needed(config_setting_add(function, "speed", CONFIG_TYPE_INT)), wish->speed);
	}
}

static void set_vfs(config_setting_t *pf, int count)
{
	config_setting_t *vfs = groups(pf, "vfs", "a PF");

	while (config_setting_length(vfs) > count)
		config_setting_remove_elem(vfs, config_setting_length(vfs) - 1);
	while (config_setting_length(vfs) < count) {
		int next = config_setting_length(vfs), last;
		config_setting_t *idx, *model = config_setting_get_elem(vfs, next - 1);
		config_setting_t *vf = needed(config_setting_add(vfs, NULL, CONFIG_TYPE_GROUP));

		copy_value(vf, model);
		idx = config_setting_get_member(vf, "idx");
		if (!idx)
			fail("a VF has no `idx`");
		last = config_setting_get_int(idx);
		config_setting_set_int(idx, last + 1);
	}
}

/* Looks at one function as it was read back. */
static void check_function(config_setting_t *was, config_setting_t *is, const struct wish *wish, unsigned long long mac)
{
	const char *const set[] = { "idx", "vfs", wish->has_mac ? "mac_addr" : "idx", wish->speed >= 0 ? "speed" : "idx", NULL };
	config_setting_t *array = config_setting_get_member(is, "mac_addr");
	int speed;

	if (!same(was, is, set))
		fail("what was written says something else than what was there");
	for (int i = 0; wish->has_mac && i < MAC_LENGTH; i++)
		if (!array || config_setting_length(array) != MAC_LENGTH ||
		    config_setting_get_int_elem(array, i) != (int)(mac >> (8 * (MAC_LENGTH - 1 - i)) & 0xff))
			fail("a MAC address was written and is not read back");
	if (wish->speed >= 0 && (!config_setting_lookup_int(is, "speed", &speed) || speed != wish->speed))
		fail("a speed was written and is not read back");
}

static void check(config_t *before, config_t *after, const struct wish *wish)
{
	unsigned long long mac = wish->mac;

	if (!same(config_root_setting(before), config_root_setting(after), (const char *const[]){ "soc", NULL }) ||
	    !same(config_lookup(before, "soc"), config_lookup(after, "soc"), (const char *const[]){ "pems", NULL }) ||
	    config_setting_length(pems(before)) != config_setting_length(pems(after)))
		fail("what was written says something else than what was there");
	for (int i = 0; i < config_setting_length(pems(before)); i++) {
		config_setting_t *was_pem = config_setting_get_elem(pems(before), i);
		config_setting_t *is_pem = config_setting_get_elem(pems(after), i);
		config_setting_t *was = groups(was_pem, "pfs", "a PEM"), *is = groups(is_pem, "pfs", "a PEM");

		if (!same(was_pem, is_pem, (const char *const[]){ "pfs", NULL }) ||
		    config_setting_length(was) != config_setting_length(is))
			fail("what was written says something else than what was there");
		for (int j = 0; j < config_setting_length(was); j++) {
			config_setting_t *was_pf = config_setting_get_elem(was, j), *is_pf = config_setting_get_elem(is, j);
			config_setting_t *was_vfs = config_setting_get_member(was_pf, "vfs");
			config_setting_t *is_vfs = config_setting_get_member(is_pf, "vfs");
			int had = was_vfs ? config_setting_length(was_vfs) : 0, has = is_vfs ? config_setting_length(is_vfs) : 0;

			check_function(was_pf, is_pf, wish, mac++);
			if (has != (wish->vfs >= 0 ? wish->vfs : had))
				fail("%d VFs were written, and %d are read back", wish->vfs, has);
			for (int k = 0; k < has; k++)
				check_function(config_setting_get_elem(was_vfs, k < had ? k : had - 1),
					       config_setting_get_elem(is_vfs, k), wish, mac++);
		}
	}
}

int main(int argc, char **argv)
{
	struct wish wish = { 0, 0, -1, -1 };
	config_t config, before, after;
	unsigned long long mac;

	if (argc != 6)
		fail("usage: %s FROM TO MAC VFS SPEED", argv[0]);
	if (strcmp(argv[3], "-")) {
		char *end = argv[3];

		wish.has_mac = 1;
		for (int i = 0; i < MAC_LENGTH; i++, end += *end == ':')
			wish.mac = wish.mac << 8 | strtoul(end, &end, 16);
	}
	if (strcmp(argv[4], "-"))
		wish.vfs = atoi(argv[4]);
	if (strcmp(argv[5], "-"))
		wish.speed = atoi(argv[5]);
	read_file(&config, argv[1]);
	mac = wish.mac;
	for (int i = 0; i < config_setting_length(pems(&config)); i++) {
		config_setting_t *pfs = groups(config_setting_get_elem(pems(&config), i), "pfs", "a PEM");

		for (int j = 0; j < config_setting_length(pfs); j++) {
			config_setting_t *pf = config_setting_get_elem(pfs, j), *vfs;

			if (wish.vfs >= 0)
				set_vfs(pf, wish.vfs);
			set_function(pf, &wish, mac++);
			vfs = config_setting_get_member(pf, "vfs");
			for (int k = 0; vfs && k < config_setting_length(vfs); k++)
				set_function(config_setting_get_elem(vfs, k), &wish, mac++);
		}
	}
	if (!config_write_file(&config, argv[2]))
		fail("%s could not be written", argv[2]);
	read_file(&before, argv[1]);
	read_file(&after, argv[2]);
	check(&before, &after, &wish);
	return 0;
}
