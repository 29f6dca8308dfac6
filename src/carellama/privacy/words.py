"""Words that tell a name from other words: Chinese surnames and characters of given names, English names, and words
that look like names and are none.

    "欧阳" in COMPOUND_SURNAMES

Written for this project from common knowledge; lists of frequent names, not of all. They hold no person.
"""

from __future__ import annotations

SURNAME_ORDER = (  # about by frequency
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林郑谢罗梁宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任傅常萧"
    "沈姚卢姜崔钟谭陆汪"
    "范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤温康施文牛樊葛"
    "邢安齐易乔伍庞颜"
    "倪庄聂章鲁岳翟殷詹申欧耿关兰焦俞左柳甘祝包宁尚符舒阮柯纪梅童凌毕单季裴霍涂成苗谷盛曲翁冉骆蓝路游辛"
    "靳管柴蒙鲍华喻祁"
    "蒲房滕屈饶解牟艾尤阳时穆农司卓古吉缪简车项连芦麦褚娄窦戚岑景党宫费卜冷晏席卫米柏宗瞿桂全佟应臧闵苟诸贝"
    "邬边卞姬师和仇栾隋"
    "商刁沙荣巫寇桑郎甄丛仲虞敖巩明佘池查麻苑迟邝官封谈匡鞠惠荆乐冀郁胥南班储原栗燕楚鄢劳谌奚皮粟冼蔺楼"
    "盘满闻位厉伊仝区郜"
    "海阚花权强帅屠豆朴盖练廉禹井祖漆巴丰支卿国狄平计索宣晋相初门云容敬来扈晁芮都普阙浦戈伏鹿薄邸雍辜羊"
    "乌母裘亓修邰赫杭况"
    "宿鲜印逯隆茹诺战慕危玉银亢嵇公湛宾戎勾茅利於呼居揭干但尉冶斯元束檀衣信展阴昝智幸奉植衡富尧闭由"
    "陳張劉楊黃趙吳孫馬"
    "鄭謝羅許韓馮鄧葉蘇魏呂盧鍾譚陸範賈韋鄒閆龍賀顧龔邵萬錢嚴湯莊聶魯歐關蘭畢單塗駱藍遊饒應榮鄔閔喬齊齐湯"
    # the rest of the Hundred Family Surnames
    "昌凤酆经贲洪钮滑荀家羿汲邴糜松弓牧隗山宓蓬郗仰秋暴钭韶怀鄂籍赖鬱苍莘贡逄扶堵宰郦郤璩濮寿郏阎习宦鱼慎"
    "庾暨步弘广禄东殳沃蔚夔厍融訾巢蒯红竺益桓秘矫綦仉佴谯笪归刀岩粘撒庹占侍甯"
)
SURNAMES = frozenset(SURNAME_ORDER)
# Surnames that are everyday words first: a marker and a name-like rest are asked for.
RARE_SURNAMES = frozenset(
    "向时和应全明海平由但来都那门国相支云花强初容位区公信利干智元束展阴居呼银印危战幸富修母索计普满闻原"
    "南班惠乐官封谈查有权"
    "成解管连车路左古简应商师边单包关文方安白于易万高常温麻冷水米毛石金牛马龙豆皮巴井羊游冉衣玉斯奉衡植"
    "由闭勾况景党宫费单水昌凤经家松弓牧山仰秋怀从咸能双通别充习鱼慎终步弘广禄东沃越空养须后红益归代布刀岩侍"
)
COMPOUND_SURNAMES = frozenset(
    "欧阳 上官 司马 诸葛 司徒 东方 皇甫 尉迟 公孙 慕容 令狐 夏侯 宇文 长孙 轩辕 端木 独孤 南宫 百里 "
    "申屠 闻人 东郭 呼延 澹台 公冶 "
    "单于 宗政 纳兰 叶赫 那拉 完颜 耶律 爱新觉罗 钮祜禄 富察 佟佳 瓜尔佳 乌雅 左丘 东门 西门 南门 "
    "公羊 谷梁 公西 颛孙 微生 梁丘 段干 漆雕 壤驷 巫马 子车 乐正 宰父 仲孙 叔孙 "
    "淳于 濮阳 太史 赫连 钟离 鲜于 闾丘 拓跋 万俟 第五 歐陽 諸葛 司馬".split()
)
JAPANESE_SURNAMES = frozenset(  # as Chinese texts write them
    "铃木 佐藤 高桥 田中 渡边 伊藤 山本 中村 小林 加藤 吉田 山田 佐佐木 山口 松本 井上 木村 斋藤 "
    "山崎 桥本 藤田 小川 冈田 长谷川 村上 石川 近藤 藤井 福田 西村 三浦 中岛 前田 池田 阿部 石井 "
    "远藤 后藤 坂本 青木 藤原 太田 松田 中野 原田 田村 竹内 和田 中山 石田 上田 森田 宫崎 酒井 "
    "工藤 横山 宫本 内田 高木 安藤 岛田 谷口 大野 丸山 今井 河野 小野 野村 菊地 松井 渡部 佐野".split()
)
# Characters that given names are made of.
GIVEN = frozenset(
    "伟芳娜秀英敏静丽强磊军洋勇艳杰娟涛明超兰霞平刚桂文辉玲红建国华志玉梅春海波燕萍鹏飞云峰龙金凤林雪荣"
    "珍健莉斌宇浩凯俊欣怡"
    "佳嘉子轩梓涵雨泽晨诗琪思远天乐宁安然博睿晓小大永福生成祥瑞德宝良才贵富康庆长根东南西北中山河江松柏"
    "青翠兴旺发财顺利达通"
    "清洁冰霜露月星辰阳光亮彩虹霓娇媚婷婧妍妮娅嫣媛嫦姝姗婉倩倪琴棋书画琳琅珊瑚瑶璐珠玥瑜瑾璇琼琬莹菲芬"
    "芝兰茜荷莲菊葵蓉蓓蕾"
    "薇萌芸苗若茹蔓荣萱昊昕昌昭晖晗景智暄曦旭旻暖朗朝木本朴杏李树栋梁楠楷榕檀森彬梦梧桐桃权武正义礼信仁"
    "孝忠诚恩慈惠爱和善美"
    "真纯洪浪淑渊温溪潇澜瀚泉沛汉润滨鸿鹤雁鹰翔翰羽翎腾跃骏骁驰骥骞锋锐钢铁铭钧钰鑫锦镇铎银坤城培基均壮"
    "士夫家豪毅威震雷霆力"
    "勤奋劲助加功胜勋勉卫民人伦伯仲叔季元亨利贞吉祺禄寿禧喜鹃鸣莺鸽晴霖云霄岩岗岳崇嵘川州岚石磐砚碧玺珂"
    "珏琛琦瑛璋璞环绍继承"
    "绪维纲绮绣素紫红丹彤朱绿蓝青白素黎冬夏秋立新年延传代世纪守谦让恭俭廉敬友朋亚京沪宪法政治学文章才艺"
    "茂盛繁群聪慧颖悟哲理"
    "道心如意可之以为言语谊诺诗词训诚谨谷丰稼禾秉秋科程稳耀辉煌灿炜烨焕燃炎炳烽煜熙熠灵巧妙姣婵娥姬姿威"
    "娴淼焱垚鑫尧舜禹汤周"
    "启航帆舟船渡桥路途程进远迎逸逍遥致祖宗先光复兵军争战齐全双一二三四五六七八九十百千万卓越凡非丁乙甲"
    "同向尚奇奕博厚宏宽宁定"
    "宜宣宥密富察寒容宾宸寅尔尼少展屹岱巍帅常幼广庭廷建弘弟彦彪征徽忆志忻怀怡恒恬悦情惟惜愉慕戈战承振捷"
    "掌揚敏敦斐斯方旋无易"
    "映显晋晟普晶暮曼曾月有朔望期未来杨杭枫柔柳柱栩格桑棠植楚榆槐横欢止步毓民水求汐汝沁沐沙沫治泓波泰洁"
    "洲浚浦涓润淇淳清添"
    "滢漫漪潔濤炫照牧牛特独猛献玄王玮玲珀珑班球理琰瑗甜生田申男留畅略疆登益盈眉睦矜知硕磊社祖祯福禅秀种"
    "稚端竹笑笙筠筱简米粉"
    "精系约纯纶终经绎绢维缘罗群羲耕聚肃育胤脉自舒良色节芊芙芮花芹芷苏英茗茵荃莎莘菁菱萃萧落葆蒙蓬蔚薛蕊"
    "藤虎虹蝶衍裕西观言许"
    "译谣豫贝贤赐赛超越跃轶辅辰远连迪逢道邦郁鄂重野量钦钊铃锡锴长门闻阁阔际陆陶隽雄雅雯零静韬韵音顺颂领"
    "频风飙飞香馨驹高魁鲁"
    "鲲鸾鹿麒麟黛齐龄偉強軍傑麗豔紅華國東鳳蘭蓮義學愛夢雲龍馬陽陳張應傳德誠蕭蘇璟弈翊珩屿彧"
)
SOUNDS = (  # characters that foreign names are written with
    "得乐斐璐茵琪莎璃弥晓阿埃艾爱昂敖奥澳巴白拜班邦包保鲍贝倍本比彼毕边宾波玻伯博勃布查柴茨慈次达大戴代黛丹当道德登邓迪底地蒂丁东杜敦多尔厄恩法范芳方菲费芬佛夫弗福盖甘冈高戈哥格葛根贡古"
    "瓜圭哈海韩汉杭豪赫黑亨洪胡华怀惠霍基吉加佳嘉贾简姜杰金津居卡凯坎康考柯科可克肯孔库夸奎昆拉腊来莱赖兰朗劳勒雷蕾累里理利莉丽莲廉良列烈琳林龄柳隆卢鲁露吕伦罗洛玛马麦迈曼芒毛梅门蒙孟米"
    "密敏明缪摩莫墨默姆木穆那纳娜乃奈南瑙内尼年涅宁纽农努诺女欧帕派潘庞培佩彭蓬皮匹平泼普奇齐恰钱乔切钦琼丘裘屈让热仁日荣茹瑞若撒萨塞赛桑森沙山珊尚绍舍申圣施诗什石史舒斯丝思松苏索塔台泰"
    "坦汤唐陶特腾提田铁廷通图托陀瓦娃万旺威韦维伟魏温文翁沃乌伍武西希锡席夏香肖谢辛欣兴休修许雪逊雅亚延扬耶叶伊依易因英永尤于约赞早扎詹珍治朱兹子祖佐季蔻妮娅薇黎朵茜芙妲翠乍喀"
)
# Beginnings of everyday, medical and drug words that look like surname and given name.
NOT_NAMES_ZH = frozenset(
    "易致 易感 易发 易引 易导 易造 易患 易被 易受 易出 易产 易过 易怒 易激 易惊 易醒 易疲 易饿 易胖 易累 易困 易于 "
    "凌晨 由经 病房 段为 祝健 第五 左胸 高热 高烧 高血 高危 高龄 高度 高脂 高糖 高中 高考 高位 高频 "
    "高兴 高强 高新 高尿 高钾 高钠 高原 "
    "白天 白带 白术 白芍 白芷 白及 白细 白血 白癜 白领 白班 白蛋 "
    "白色 白酒 白糖 白内 白头 白茅 白果 黄疸 黄芪 黄连 黄芩 黄柏 黄精 黄体 黄色 黄金 黄斑 黄昏 黄褐 "
    "黄痰 何首 何时 何种 何处 何况 何以 何谓 何为 何杰 何病 何药 何人 马上 "
    "马兜 马齿 马来 马应 马虎 马路 石斛 石膏 石淋 石家 石决 石榴 金银 金黄 金额 金属 金钱 金橘 金刚 "
    "金葡 牛黄 牛膝 牛奶 牛肉 牛皮 龙胆 龙骨 龙眼 龙葵 温度 温水 温和 温馨 "
    "温开 温热 平时 平常 平均 平素 平躺 平卧 平稳 平滑 平安 安全 安静 安慰 安排 安宫 安定 安心 安徽 "
    "安抚 安置 方便 方法 方面 方案 方剂 方式 方才 方向 文化 文献 文章 "
    "常规 常常 常见 常年 常用 常有 常山 时间 时候 时常 时有 时而 时不 和平 明显 明天 明确 明年 明白 "
    "明早 全身 全部 全天 全年 全面 全家 全科 全麻 应该 应当 应用 应激 应急 应为 "
    "任何 任意 任务 那么 那些 那个 那时 那就 那样 严重 严格 严密 于是 成人 成年 成功 成长 成分 成都 "
    "成为 解决 解释 解除 解热 解放 管理 管子 连续 连翘 连着 路上 路人 "
    "左右 左侧 左边 左上 左下 左肺 左心 左眼 左腿 左手 古代 简单 关于 关节 关键 关注 关系 关心 车祸 "
    "车前 车上 向左 向右 向上 向下 来自 来诊 来院 来电 来源 来月 水肿 水样 "
    "谢谢 谢了 谢医 余下 余无 余热 余者 钟情 毛病 毛发 毛细 毛囊 毛巾 万一 万分 万能 万古 易怒 易感 "
    "易疲 易于 易患 易出 熊胆 熊猫 胡萝 胡须 胡乱 胡椒 胡黄 杜仲 杜冷 "
    "杜绝 苏木 苏子 苏叶 苏醒 苏州 苏打 江苏 江西 江湖 程度 程序 童年 童子 单纯 单位 单独 单侧 单身 "
    "单核 单次 计划 计算 申请 尤其 尤为 包括 包块 包皮 包装 包含 麻木 麻醉 "
    "麻烦 麻黄 麻疹 冷汗 冷水 冷敷 冷静 华佗 华法 康复 康宁 武汉 武装 汤药 汤剂 柴胡 葛根 甘草 甘遂 "
    "甘油 甘露 贝母 桑叶 桑白 商陆 柏子 路径 田七 黎明 党参 党员 麦冬 麦芽 项目 "
    "项链 游泳 游走 宫颈 宫腔 宫缩 宫外 宫内 曲线 曲张 边缘 边界 费用 费劲 花粉 花生 花钱 花椒 强烈 "
    "强直 强调 强迫 国家 国内 国外 国际 国产 支气 支架 支持 支原 屈光 "
    "屈曲 冯了 双侧 双肺 双手 双眼 双下 双腿 房颤 房间 房事 喻户 景象 景天 祝您 祝你 祝好 祝早 祝福 "
    "符合 舒适 舒服 舒张 舒缓 甲状 米粒 米饭 米汤 师傅 经常 经过 经济 经期 "
    "经前 王不 王浆 刘寄 徐长 韩国 陈皮 陈旧 陈述 林可 林区 曾经 曾有 曾在 曾因 曾行 曾用 曾服 曾患 "
    "史密 史上 梅毒 梅尼 梅花 唐氏 唐山 叶酸 叶黄 巴西 巴豆 巴戟 巴金 皮肤 皮疹 "
    "皮下 皮炎 皮质 海鲜 海马 海藻 海南 海外 海拔 海螵 门诊 门静 门冬 门脉 权威 豆腐 豆浆 豆制 银屑 "
    "银杏 银行 印象 印度 阴道 阴茎 阴囊 阴虚 阴影 阴天 阴性 阳性 阳痿 阳虚 阳台 "
    "位于 位置 区别 区域 信息 信心 信任 公司 公里 公斤 公分 公安 利尿 利于 利福 干咳 干燥 干净 干呕 "
    "干扰 智力 智能 智齿 元旦 元胡 幸福 幸运 修复 修改 母亲 母乳 母婴 普通 普遍 "
    "满意 满月 满足 原因 原来 原发 原有 南方 南京 南昌 乐观 官方 封闭 谈话 查体 查房 查血 查尿 查过 "
    "查出 查看 容易 居家 居住 居民 呼吸 危险 危重 战斗 索拉 平和 平片 齐全 "
    "严禁 景况 郎中 司机 司美 相关 相信 相对 相当 初步 初次 初期 初诊 云南 云雾 玉米 玉屏 都是 都有 "
    "都没 由于 但是 但我 有时 有点 有无 农民 农村 农历 农药 卫生 席汉 冷冻 "
    "盛夏 季节 季度 单个 车间 连日 夏天 夏季 夏枯 秦皮 秦艽 江边 江门 方形 艾滋 艾灸 艾叶 艾司 艾普 "
    "乌梅 乌鸡 鲁米 罗红 罗汉 罗格 罗氏 顾虑 顾客 顾及 尚可 尚未 尚好 尚无 尚有 "
    "盖子 盖被 练习 成品 成绩 井水 祖父 祖母 漆树 丰富 丰胸 项背 肖像 纪录 纪念 章节 符号 丁胺 丁卡 "
    "史无 戴眼 戴口 戴牙 戴套 许多 许可 孔径 雷贝 雷公 雷尼 雷米 姜片 姜汤 姜黄 "
    "姜半 石头 路边 谷丙 谷草 谷氨 谷维 谷物 汪洋 马蹄 巴氏 蒙脱 蒙古 曹操 欧洲 欧美 邓小 毛主 周岁 "
    "周一 周二 周三 周四 周五 周六 周日 周末 周期 周围 周身 周边 周年 周前 周后 "
    "周内 周左 周了 周前 周多 龙血 龙年 安乃 安神 安胎 安非 余留 蓝光 蓝芩 蓝色 冷饮 管腔 向您 向医 "
    "向后 向前 广东 那里 和我 和您 和其 和老 和家 查一 查了 查的 来了 来看 来检 "
    "本人 家属 患者 病人 医生 医师 大夫 护士 主任 女士 先生 老师 同志 姓名 不详 未知 未填 保密 匿名 "
    "您好 你好 无名 同上 如下 见下 相同 女儿 儿子".split()
)
# Characters before a surname with which it is the end of a word: 病房医生, 谢谢医生.
WORD_BEFORE = {
    "阳": "三小大太肾夕阴",
    "谢": "谢感致多酬答鸣", "房": "病药产厨乳心查住", "戚": "亲", "苗": "疫树种育", "康": "健安小",
    "任": "责信担现前主委", "高": "升提偏增", "安": "平西保公不", "常": "平经正异日反非", "温": "体高低",
    "江": "长", "海": "上大", "石": "结胆化", "车": "开坐", "史": "病历", "白": "蛋明", "苏": "屠流",
    "管": "血气尿主", "水": "喝药", "米": "小玉厘毫", "华": "中精", "方": "处配对双地医", "金": "资奖黄",
    "成": "完形", "易": "容", "钱": "花付要", "包": "打红", "路": "走一", "席": "出主", "夏": "华立",
    "秋": "中", "于": "由对关至位求属在处", "容": "内", "祝": "庆", "宁": "安", "明": "说证声", "向": "方",
    "游": "旅", "牛": "蜗", "马": "犬", "龙": "恐", "陈": "推", "章": "文盖", "项": "事", "程": "疗工病过",
    "段": "阶一手", "连": "大", "雷": "地", "鲜": "新", "查": "检调", "申": "引", "计": "设会", "池": "电",
    "全": "安", "权": "授",
}  # fmt: skip

FIRST_NAMES = frozenset(
    """
    james john robert michael william david richard joseph thomas charles christopher daniel matthew anthony
    mark donald steven paul andrew joshua kenneth kevin brian george edward ronald timothy jason jeffrey ryan
    jacob gary nicholas eric jonathan stephen larry justin scott brandon benjamin samuel gregory frank alexander
    raymond patrick jack dennis jerry tyler aaron jose adam henry nathan douglas zachary peter kyle walter ethan
    jeremy harold keith christian roger noah gerald carl terry sean austin arthur lawrence jesse dylan bryan joe
    jordan billy bruce albert willie gabriel logan alan juan wayne roy ralph randy eugene vincent russell elijah
    louis bobby philip johnny mary patricia jennifer linda elizabeth barbara susan jessica sarah karen nancy
    lisa betty margaret sandra ashley kimberly emily donna michelle dorothy carol amanda melissa deborah
    stephanie rebecca sharon laura cynthia kathleen amy shirley angela helen anna brenda pamela nicole emma
    samantha katherine christine debra rachel catherine carolyn janet ruth maria heather diane virginia julie
    joyce victoria olivia kelly christina lauren joan evelyn judith megan cheryl andrea hannah martha jacqueline
    frances gloria ann teresa kathryn sara janice jean alice madison doris abigail julia judy grace denise amber
    marilyn beverly danielle theresa sophia marie diana brittany natalie isabella charlotte rose alexis kayla
    oliver harry charlie liam lucas mason leo oscar archie theo freddie alfie toby simon graham nigel colin
    trevor ian neil stuart hugh gareth rhys owen callum declan aidan fiona claire louise sophie chloe ella mia
    lily ava lucy ellie isla zoe gemma hazel joanne tracy tom tim jim bob bill mike dave steve chris matt dan
    ben sam alex nick tony rob greg jeff ken ron ted fred max luke evan ivan kate katie liz beth jane jenny sue
    anne annie molly maggie peggy rosie susie wendy carlos luis miguel jorge pedro pablo diego fernando rafael
    sofia lucia carmen rosa elena mohammed muhammad mohamed ahmed ali omar hassan hussein ibrahim yusuf khalid
    fatima aisha ayesha zainab maryam amina leila layla raj rajesh ramesh suresh amit anil sunil vijay sanjay
    ravi vikram arjun rahul rohit priya anita sunita neha pooja deepa kavita lakshmi meera anjali divya sneha
    swati wei ming jun hui lei ying xin yan ling mei hong jing hiroshi kenji yuki akira min-jun olga natasha
    sergei dmitri ingrid lars sven hans klaus pierre francois marco giovanni giulia dwayne tyrone malik jamal
    keisha marcus tomasz piotr pawel jakub agnieszka magdalena katarzyna anika anya irene joanna gwen fergus
    yolanda adewale chidi ngozi amara kwame kofi tunde emeka wanjiru hamza bilal tariq imran asif nadia samir
    karim rashid yasmin farah huda salma noor zara abdul abdullah mustafa mehmet ayse elif emre deniz dmitry
    vladimir nikolai tatiana svetlana irina yelena mikhail andrei bogdan ioana mihai cristina stefan elisabeth
    hannelore jurgen wolfgang gunther helga birgit astrid bjorn erik magnus soren mette annika matteo lorenzo
    francesca chiara alessandro paolo stefano antonio manuel javier alejandro eduardo ricardo raul hector
    ernesto guadalupe esperanza dolores consuelo rosario beatriz joao tiago mariana thiago camila valentina
    santiago mateo sebastian nicolas camille chloé élise amélie benoit thierry julien mathieu etienne yvonne
    simone odette margot clara greta freya saoirse niamh siobhan aoife cormac padraig eoin ciaran brendan
    desmond maureen noreen sheila moira morag hamish angus alasdair iain craig derek darren clive nigella poppy
    imogen harriet georgina beatrix arabella felicity rupert hugo jasper barnaby cassandra priscilla veronica
    valerie monica bridget vanessa sabrina tanya tamara crystal tiffany destiny jasmine aaliyah kiara shanice
    latoya deshawn tyrell darnell lamar terrence reginald cedric clarence leroy otis curtis melvin lester
    chester milton norma lorraine marjorie gladys thelma bernice irma wilma elsie myrtle kaitlyn brianna
    mackenzie savannah hailey aubrey brooklyn hunter cody travis dustin derrick corey chad brett lakshman
    sridhar srinivas venkat krishna ganesh mahesh naresh dinesh mukesh rakesh ashok arvind manoj sandeep sachin
    nikhil varun karthik aditya shreya ananya ishita kiran jyoti rekha sushma usha geeta manisha nisha preeti
    shilpa xiaoming xiaohong jianguo weiwei lili fang jie min na jinhee soo-jin hye-jin sung-min takeshi haruto
    yuto sakura naoko emiko kazuo eleanor beatrice ernest stanley leonard norman clifford herbert edith florence
    mabel agnes ethel winifred
    """.split()
)
LAST_NAMES = frozenset(
    """
    smith johnson williams brown jones garcia miller davis rodriguez martinez hernandez lopez gonzalez wilson
    anderson thomas taylor moore jackson martin lee perez thompson white harris sanchez clark ramirez lewis
    robinson walker young allen king wright scott torres nguyen hill flores green adams nelson baker hall rivera
    campbell mitchell carter roberts gomez phillips evans turner diaz parker cruz edwards collins reyes stewart
    morris morales murphy cook rogers gutierrez ortiz morgan cooper peterson bailey reed kelly howard ramos kim
    cox ward richardson watson brooks chavez wood james bennett gray mendoza ruiz hughes price alvarez castillo
    sanders patel myers long ross foster jimenez powell jenkins perry russell sullivan bell coleman butler
    henderson barnes fisher vasquez simmons graham murray ford hamilton wallace woods cole west owens reynolds
    kennedy ellis harrison gibson mcdonald marshall ortega gordon shaw holmes rice robertson hunt black daniels
    palmer mills nichols grant knight ferguson stone hawkins dunn perkins hudson spencer gardner payne pierce
    berry arnold wagner willis ray watkins olson carroll duncan snyder hart cunningham bradley lane andrews
    harper fox riley armstrong carpenter weaver greene lawrence elliott chapman obrien o'brien o'connor o'neill
    singh kumar sharma gupta khan ahmed hussain ali shah rao reddy iyer mehta joshi verma desai nair menon das
    chowdhury wang li zhang liu chen yang huang zhao wu zhou xu sun ma zhu hu guo he lin gao luo zheng tanaka
    suzuki sato ito park choi jung kowalski novak schmidt muller schneider fischer weber meyer rossi russo
    ivanov petrov okafor okonkwo mensah webb castellano whitcombe thackeray mackenzie macdonald macleod mcbride
    mccarthy mcgrath mckenzie mclean donovan doyle walsh byrne gallagher brennan burke daly duffy quinn nolan
    flynn delaney higgins hogan keane lindqvist larsson johansson eriksson hansen jensen nielsen olsen andersen
    pedersen dubois lefevre moreau laurent girard bernard hoffmann becker schulz koch bauer richter klein wolf
    neumann zimmermann braun kruger hartmann bianchi romano ricci marino greco bruno gallo conti popescu ionescu
    horvath nagy szabo novotny kaminski wisniewski kowalczyk zielinski petrenko shevchenko volkov sokolov
    morozov yamamoto watanabe nakamura kobayashi kato yoshida yamada sasaki kang yoon lim tran pham hoang phan
    bui dang ngo duong vu siddiqui qureshi malik chaudhry iqbal mahmood akhtar begum bibi chaudhary banerjee
    mukherjee chatterjee bose sen ghosh dutta mishra pandey tiwari yadav chauhan thakur agarwal bansal jain
    shetty kulkarni deshmukh patil naidu pillai subramanian krishnan ramachandran boateng asante owusu diallo
    traore keita nwosu eze obi balogun dlamini nkosi mbeki banda phiri moyo barrera fuentes aguilar dominguez
    guerrero medina vargas rojas salazar contreras briggs hollis finch abernathy pettigrew whitfield adeyemi
    abara silva santos oliveira costa pereira fernandez whitaker pemberton ashworth hargreaves
    """.split()
)
# Capitalised words that stand where a name could and are none.
NOT_NAMES_EN = frozenset(
    """
    mr mrs ms miss mx dr prof na cl cr bun co2 hco3 ca mg po4 alb ast alt ggt tsh tel fax ph phone mob cell ext
    url www http https jan feb mar apr jun jul aug sep sept oct nov dec hosp reg pt samaritans eve skoda toyota
    honda bmw audi volvo nissan tesla mercedes corolla civic cochrane plt hgb hct wbc rbc mcv crp esr ext approx
    appt resp temp sats vitals neuro cardio abdo
    obs gen we'll i'll he'll she'll they'll we've you'll you've they've very regards doc mayo respiratory
    general family internal switzerland covid coronavirus thanking greetings welcome the a an and or but if so
    then than that this these those there here he she it they we you i his her its their our my your who what
    when where why how which is was were are be been being has have had having do does did done doing can could
    will would shall should may might must not no nor yes yeah yep nope ok okay hi hello hey dear thanks thank
    please sorry well good great fine bad sure right left upper lower middle anterior posterior chronic acute
    severe mild moderate fever cough cold pain headache nausea vomiting diarrhea diarrhoea swelling rash patient
    patients doctor doctors dr nurse physician surgeon provider consultant hospital clinic medical center centre
    health healthcare care emergency department room ward unit icu er ed history exam examination test tests lab
    labs results result report date time name names number phone address email age sex gender male female man
    woman boy girl child baby mother father parent husband wife son daughter brother sister friend denies denied
    reports reported states stated complains complained presents presented presenting advised advises said says
    told tells asked asks noted notes seen referred treated admitted discharged given taken taking takes took
    started starts stopped continues continue follow following followed monday tuesday wednesday thursday friday
    saturday sunday january february march april june july august september october november december today
    tomorrow yesterday morning evening night day days week weeks month months year years old new first second
    third last next previous current sars hiv aids ct mri ecg ekg eeg x-ray xray bp hr rr bmi mg ml kg iv im po
    bid tid prn type types stage grade class disease syndrome disorder sign signs score scale index criteria
    classification method procedure operation therapy treatment medicine medication medications drug drugs
    tablet tablets dose doses insulin aspirin ibuprofen paracetamol acetaminophen benadryl tylenol metformin
    amoxicillin azithromycin prednisone warfarin heparin lisinopril atorvastatin omeprazole parkinson alzheimer
    crohn hodgkin murphy babinski kernig brudzinski down turner klinefelter marfan graves hashimoto addison
    cushing wilson's kaposi epstein barr raynaud bell's huntington tourette asperger rett reye kawasaki guillain
    barre foley apgar glasgow wells braden barthel katz norton waterlow doppler holter pap gram giemsa ziehl
    romberg i'm i've i'd i'll don't can't it's that's there's what's he's she's we're they're you're isn't
    aren't wasn't doesn't didn't also after before during since because although however therefore while until
    unless about above below over under with without from into onto for of in on at by to as up out off again
    once more most some any all each every both either neither few many much other another such same different
    own only just even still already always never often sometimes usually american european asian african
    chinese indian english british german french spanish america china india usa uk us safety questionnaire
    education information satisfaction portal advocate support group services service rights consent
    confidential unknown none anonymous undisclosed withheld na n/a nil pending self x xx xxx god lord sir madam
    mam maam ma'am everyone everybody team folks guys friends colleague colleagues user member customer
    recipient editor reader north south east west street road avenue drive court lane park community national
    regional international college university school institute foundation society association journal lancet
    nature science medicare medicaid brand label file strip generic store company device trade product google
    scholar bot house strange no. john's wort st saint saints
    """.split()
)
EPONYM_AFTER = (
    r"(?:['’]?s?[ -](?:disease|syndrome|sign|test|score|scale|palsy|lymphoma|sarcoma|tumou?r|contracture|thyroiditis|"
    r"criteria|classification|reflex|phenomenon|esophagus|oesophagus|cyst|node|nodes|fracture|catheter|"
    r"procedure|operation|"
    r"manoeuvre|maneuver|stain|anemia|anaemia|chorea|dementia|disorder|ulcer|disease|law|formula|"
    r"position|method|needle|layer|membrane|capsule|ducts?|glands?|canal|foramen|fascia|ligament|pouch|fossa|space|triangle|triad|tetrad|pentad|"
    r"gangrene|techniques?|ratio|discrepancy|index|guidelines?|staging|grading|rule|hypothesis|theory|nodules?|granulomatosis))"
)
# Given names of the world that the lists of names_en.txt hold too few of.
WORLD_NAMES = frozenset(
    """
    abdi abdul abdullah abdulrahman abebe abena abhishek achieng adaeze aditya adjoa adunni agnieszka agus ahmet
    ajay akiko akira akua aleksandr alessandro alexei alok amaka amina amit anastasia andrei anil anjana ankit
    anneli aoi aoife archana arif arjun arvind asha ashok asif astrid ayse ayu babatunde bambang bilal bjarne
    bogdan bola bongani boris caoimhe chiamaka chiara chidi chidinma chinedu chioma chipo ciara citlali consuelo
    cormac deepa deepak desta dewi diarmuid dinesh divya dmitri dmitry duc eirik ekaterina ekene elena elif
    emeka emine eoin esi esperanza eunji faisal farah farai fatma fatuma federica femi fionn folake francesca
    funmi galina ganesh gaurav geeta girish giulia gopal govind grainne grzegorz guadalupe gunnar guoqiang haile
    halima halvard hamza haoran harish haruto hassan hina hiroshi hirut huong huseyin hussain hussein hyun
    ibrahim ifeoma ignacio igor imran ingrid irfan irina ismail itzel ivan jianguo jihoon jisoo jiwoo joaquin
    jukka kaito kamala kamau kamlesh karan katarzyna katya kavita keiko kelechi kemal kenji kenta ketut khadija
    khalid khanh kiran kofi kojo krishna krzysztof kuldeep kunle kwabena kwame kyung lakshmi layla leila lerato
    lihua lindiwe lorenzo lukasz lyudmila mahesh mahmoud malgorzata manoj mariam maryam masha matteo meera
    mehmet meiling mikhail mikko milagros minji minjun mira misaki mohamed mohit muhammad mukesh mulugeta murali
    mustafa mwangi naledi naoko naresh natalia naveen neha ngozi niamh niccolo nikolai nisha nitin njoroge
    nkechi nneka nomvula noor nour nurul nyoman obinna odhiambo oisin oksana oleg olena olumide oluwaseun onyeka
    orla osman otieno oyelaran padma padraig paivi pavel phuong pooja pradeep prakash praveen priyanka puja
    putri quang radha rahmat rajesh rakesh rani rashid ravi rekha renu riku ritu rizal rocio rodrigo rohit
    roisin rudo sachin sakura salma samira sandeep sanjay saraswati satish satoshi segun selam selamawit seojun
    sergei sergey seung shilpa shreya sigrid siobhan sipho sita siti solveig sonia soojin sooyoung sota srinivas
    subhash sumit sunil sunita suresh sushma svein svetlana swati tadhg takeshi taras tariq tarun tatenda
    tatiana temitope tendai tesfaye thabo thandi thandiwe thanh themba thuy tigist timo tomasz torbjorn trang
    tuan tunde tuyet uchenna umar usha usman vandana varun vasily venkat vijay vikram vimala vinod vivek
    vladimir wambui wanjiru wayan weiming wojciech xiaohong xiaoli xiaoming xiaoyan ximena xiuying xochitl yasin
    yasmin yaw yelena yetunde yifan yoko yolanda youngho yousef yuki yuri yusuf yuto yuxuan zainab zanele
    zbigniew zeynep zhiwei zihan
    """.split()
)
