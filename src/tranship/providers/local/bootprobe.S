# The program that acceleration.py boots to find out whether KVM runs a guest. It ends QEMU by port 0xf4 (isa-debug-exit)
# after printing on COM1, and it prints only after what every operating system does while it starts has worked: long mode
# with its own page tables, a page fault that is mended by its handler, cpuid, model specific registers, SSE, the timer's
# interrupt out of HLT, ring 3 and back, and enough plain work that a host which emulates each instruction misses
# the deadline.
#
# Build:  gcc -c -o bootprobe.o bootprobe.S && ld -Ttext 0x7c00 --oformat binary -o bootprobe.img bootprobe.o
# bootprobe.hex is that image; a test builds it again and compares.

        .globl  _start
        .set    TABLES, 0x1000          # page tables: three pages
        .set    IDT, 0x4000
        .set    TSS, 0x5000
        .set    STACK, 0x7000
        .set    FAULTING, 0x400000      # not mapped until the page fault handler does it

        .code16
_start: cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $STACK, %sp
        cld
        movw    $0x0201, %ax            # the second sector, by the firmware's disk service
        movw    $0x7e00, %bx
        movw    $2, %cx
        movb    $0, %dh
        int     $0x13
        jc      .
        xorw    %ax, %ax
        movw    $TABLES, %di            # everything from the tables to the TSS's end is zero
        movw    $0x2800, %cx
        rep stosw
        movw    $TABLES + 0x1007, TABLES
        movw    $TABLES + 0x2007, TABLES + 0x1000
        movw    $0x87, TABLES + 0x2000  # the first 2 MiB, for ring 3 too
        inb     $0x92, %al              # A20
        orb     $2, %al
        outb    %al, $0x92
        lgdt    gdtr
        movl    $0x620, %eax            # PAE, OSFXSR, OSXMMEXCPT
        movl    %eax, %cr4
        movl    $TABLES, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx       # EFER.LME
        rdmsr
        orw     $0x100, %ax
        wrmsr
        movl    %cr0, %eax
        andb    $0xfb, %al              # no x87 emulation
        orl     $0x80000003, %eax
        movl    %eax, %cr0
        ljmp    $8, $long
        .org    510
        .word   0xaa55

        .code64
long:   movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movl    $STACK, %esp
        movl    $STACK, TSS + 4         # the stack for interrupts out of ring 3
        movl    $timer, %eax
        movl    $IDT + 0x20 * 16, %edi
        call    gate
        movl    $fault, %eax
        movl    $IDT + 14 * 16, %edi
        call    gate
        movl    $done, %eax
        movl    $IDT + 0x80 * 16, %edi
        call    gate
        movb    $0xee, -11(%rdi)        # this one may be called from ring 3
        lidt    idtr
        movw    $0x28, %ax
        ltr     %ax
        movl    $pic, %esi              # PIC to vector 0x20, only the timer; PIT at about 1 kHz
        movl    $9, %ecx
1:      lodsw
        movzbl  %al, %edx
        movb    %ah, %al
        outb    %al, %dx
        loop    1b
        sti

        xorl    %eax, %eax
        cpuid
        movl    $0x1b, %ecx             # the local APIC's base, as a kernel reads it
        rdmsr
        movl    $0x277, %ecx            # PAT, written back as it was
        rdmsr
        wrmsr
        movl    $7, FAULTING            # page fault, mended
        movd    FAULTING, %xmm0
        paddd   %xmm0, %xmm0
        movd    %xmm0, %eax
        cmpl    $14, %eax
        jne     hang
        movl    $1 << 26, %ecx          # plain work, interrupted by the timer
2:      imull   $1103515245, %eax, %eax
        decl    %ecx
        jnz     2b
3:      hlt
        cmpb    $20, ticks
        jb      3b

        pushq   $0x23                   # to ring 3, which asks to come back
        pushq   $STACK - 0x200
        pushq   $0x202
        pushq   $0x1b
        pushq   $user
        iretq
user:   int     $0x80
hang:   jmp     hang

gate:   movw    %ax, (%rdi)             # eax: handler, rdi: its gate; rdi moves behind it
        movl    $0x8e000008, 2(%rdi)
        addl    $16, %edi
        ret

timer:  pushq   %rax
        incb    ticks
        movb    $0x20, %al
        outb    %al, $0x20
        popq    %rax
        iretq

fault:  pushq   %rax
        movq    %cr2, %rax
        cmpl    $FAULTING, %eax
        jne     hang
        movb    $0x87, TABLES + 0x2010  # the third 2 MiB page shows the first memory
        invlpg  (%rax)
        popq    %rax
        addq    $8, %rsp                # the error code
        iretq

done:   movl    $text, %esi
        movw    $0x3f8, %dx
        movl    $text_end - text, %ecx
        rep outsb
        movb    $0x10, %al
        outb    %al, $0xf4
4:      hlt
        jmp     4b

pic:    .byte   0x20, 0x11, 0x21, 0x20, 0x21, 4, 0x21, 1, 0x21, 0xfe, 0xa1, 0xff, 0x43, 0x34, 0x40, 0xa9, 0x40, 4
ticks:  .byte   0
text:   .ascii  "guest works\n"
text_end:
        .balign 8
gdt:    .quad   0
        .quad   0x00209a0000000000      # 08 ring 0 code
        .quad   0x0000920000000000      # 10 ring 0 data
        .quad   0x0020fa0000000000      # 1b ring 3 code
        .quad   0x0000f20000000000      # 23 ring 3 data
        .quad   0x0000890050000067      # 28 TSS
        .quad   0
gdtr:   .word   gdtr - gdt - 1
        .long   gdt
idtr:   .word   0xfff
        .quad   IDT
        .org    1024
