/* The boot sector of an exported disk: fills memory as a table on the disk says, and starts Linux.
 *
 * Whoever writes the disk does the thinking: the table's first sector follows the boot code's own
 * data (see bios_table), and has 16 bytes for each piece: u64 first sector, u32 sectors, u32
 * address; no sectors: the end. The first piece is Linux's real-mode part, ready to run, at
 * 0x10000. It has to fit into the 440 bytes before the disk's signature. */

	.code16
	.text
	.globl	start

	.set	TABLE, 0x7e00
	.set	BUFFER, 0x20000
	.set	BUFFER_SECTORS, 64
	.set	SETUP, 0x1000		/* segment */

start:
	ljmp	$0, $1f
1:	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7c00, %sp
	sti
	cld
	movb	%dl, drive

	movw	$0x2401, %ax		/* open A20: by the BIOS, and by port 92 */
	int	$0x15
	inb	$0x92, %al
	orb	$2, %al
	andb	$0xfe, %al
	outb	%al, $0x92

	call	read			/* the table */

	movw	$TABLE, %si
piece:	movl	8(%si), %ebp		/* sectors left */
	testl	%ebp, %ebp
	jz	enter
	movl	(%si), %eax
	movl	%eax, packet_sector
	movl	4(%si), %eax
	movl	%eax, packet_sector + 4
	movl	12(%si), %edi		/* address */
	movw	$BUFFER >> 4, packet_segment
	movw	$0, packet_offset
chunk:	movl	$BUFFER_SECTORS, %eax
	cmpl	%ebp, %eax
	jbe	2f
	movl	%ebp, %eax
2:	movw	%ax, packet_count
	pushl	%edi
	pushl	%ebp
	pushw	%si
	call	read
	popw	%si
	popl	%ebp
	popl	%edi
	movzwl	packet_count, %eax
	addl	%eax, packet_sector
	adcl	$0, packet_sector + 4
	subl	%eax, %ebp
	call	copy
	testl	%ebp, %ebp
	jnz	chunk
	addw	$16, %si
	jmp	piece

/* Copies %eax sectors from the buffer to %edi, which is moved on. The BIOS may have taken the
 * segments' limits back since the last time: they are lifted for each copy. */
copy:	pushw	%si
	movl	%eax, %ecx
	shll	$7, %ecx
	cli
	lgdt	table_of_segments
	movl	%cr0, %eax
	orb	$1, %al
	movl	%eax, %cr0
	jmp	3f
3:	movw	$8, %bx
	movw	%bx, %ds
	movw	%bx, %es
	andb	$0xfe, %al
	movl	%eax, %cr0
	jmp	4f
4:	movl	$BUFFER, %esi
	addr32 rep movsl
	xorw	%bx, %bx
	movw	%bx, %ds
	movw	%bx, %es
	sti
	popw	%si
	ret

read:	movw	$packet, %si
	movb	drive, %dl
	movb	$0x42, %ah
	int	$0x13
	jc	failed
	ret

enter:	cli
	movw	$SETUP, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %fs
	movw	%ax, %gs
	movw	%ax, %ss
	movw	$0xe000, %sp
	ljmp	$SETUP + 0x20, $0

failed:	movw	$message, %si
5:	lodsb
	testb	%al, %al
	jz	6f
	movb	$0x0e, %ah
	movw	$7, %bx
	int	$0x10
	jmp	5b
6:	sti
	hlt
	jmp	6b

message:
	.asciz	"AppPot: the disk cannot be read\r\n"

	.balign	4
segments:
	.quad	0
	.quad	0x00cf92000000ffff
table_of_segments:
	.word	. - segments - 1
	.long	segments
drive:	.byte	0

	/* The last 16 bytes: a disk address packet; whoever writes the disk fills in bios_table. */
	.org	440 - 16
packet:	.byte	16, 0
packet_count:
	.word	1
packet_offset:
	.word	TABLE
packet_segment:
	.word	0
packet_sector:
bios_table:
	.quad	0
