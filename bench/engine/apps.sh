#!/bin/sh
# apps.sh NAME: the application rows; run under `work -t`, which times them and hashes what they print.
# Inputs are the same everywhere; so must the output be.  `prepare` and `prepare_disk` write inputs.
set -eu
cd "${WORK_DIR:-/tmp}"

case $1 in
# busybox, in the initramfs
prepare)
	work -g text 3 >text
	work -g bytes 24 >bytes
	gzip -c text >text.gz
	;;
gzip) gzip -c text ;;
gunzip) gzip -dc text.gz ;;
shell)
	i=0 sum=0 list=
	while [ $i -lt 40000 ]; do
		sum=$(((sum * 31 + i) % 65521))
		case $sum in
		*7*) list=${list#?????}x$sum ;;
		esac
		i=$((i + 1))
	done
	echo "$sum $list"
	;;
spawn)
	i=0
	while [ $i -lt 200 ]; do
		/bin/busybox true
		i=$((i + 1))
	done
	echo $i
	;;
awk)
	awk '{ n += NF; sum += $1; for (i = 2; i <= NF; i++) { count[$i]++; size += length($i) } }
		/year.*life/ { hit++ }
		END { for (w in count) print w, count[w]; print n, sum, size, hit }' text
	;;
sort) sort -n text | tail -n 20 ;;
sha256sum) sha256sum bytes ;;

# Debian's programs, on its disk
prepare_disk)
	work -g bytes 32 >bytes
	cat >primes.c <<-'C'
		#include <stdio.h>
		#include <stdlib.h>
		#include <string.h>
		struct entry { char key[16]; unsigned value; struct entry *next; };
		static struct entry *table[4096];
		static unsigned hash(const char *s) { unsigned h = 5381; while (*s) h = h * 33 ^ (unsigned char)*s++; return h; }
		static struct entry *find(const char *key)
		{
			struct entry **p = &table[hash(key) % 4096];
			while (*p && strcmp((*p)->key, key) != 0)
				p = &(*p)->next;
			if (!*p) {
				*p = calloc(1, sizeof(**p));
				snprintf((*p)->key, sizeof((*p)->key), "%s", key);
			}
			return *p;
		}
		int main(void)
		{
			char key[16];
			unsigned long sum = 0;
			for (unsigned i = 0; i < 20000; i++) {
				snprintf(key, sizeof(key), "k%u", i * 7919u % 5003u);
				find(key)->value += i;
				sum = sum * 31 + find(key)->value;
			}
			printf("%lu\n", sum);
			return 0;
		}
	C
	cat >bench.py <<-'P'
		import collections, json, re
		def queens(n, row=0, cols=0, d1=0, d2=0):
		    if row == n:
		        return 1
		    total = 0
		    for c in range(n):
		        bit = 1 << c
		        if not (cols & bit or d1 >> (row + c) & 1 or d2 >> (row - c + n) & 1):
		            total += queens(n, row + 1, cols | bit, d1 | 1 << (row + c), d2 | 1 << (row - c + n))
		    return total
		words = [f"w{i * 7919 % 997}" for i in range(60000)]
		count = collections.Counter(words)
		text = json.dumps(sorted(count.items()))
		print(queens(7), len(re.findall(r"w\d*7\d*", text)), sum(v for _, v in json.loads(text)))
		print(sum(x * x % 7 for x in range(200000)), pow(3, 100003, 10**60 + 7))
	P
	cat >sql.py <<-'P'
		import sqlite3
		db = sqlite3.connect(":memory:")
		db.execute("create table t (id integer primary key, a integer, b text)")
		db.executemany("insert into t values (?, ?, ?)", ((i, i * 7919 % 10007, "row %d" % (i % 97)) for i in range(30000)))
		db.execute("create index ta on t (a)")
		print(db.execute("select count(*), sum(a) from t where a between 100 and 5000").fetchall())
		print(db.execute("select b, count(*), max(a) from t group by b order by 3 desc, 1 limit 5").fetchall())
		print(db.execute("select count(*) from t x join t y on x.a = y.id where y.b like '%7'").fetchall())
		db.execute("update t set b = upper(b) where a % 3 = 0")
		print(db.execute("select count(distinct b) from t").fetchall())
	P
	;;
openssl_sha) openssl dgst -sha512 -r bytes ;;
openssl_aes)
	openssl enc -aes-256-ctr -in bytes -K 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f \
		-iv 00000000000000000000000000000001 | tail -c 4096
	;;
openssl_prime)
	# 2^1279 - 1
	openssl prime -hex "7$(printf '%0319d' 0 | tr 0 F)" | sed 's/.*(/(/'
	;;
python) /usr/bin/python3 -S bench.py ;;
sqlite) /usr/bin/python3 -S sql.py ;;
gcc) gcc -O2 -o primes primes.c && ./primes ;;
*)
	echo "apps.sh: there is no '$1'" >&2
	exit 2
	;;
esac
